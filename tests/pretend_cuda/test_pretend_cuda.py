"""Errors, counts and results of the pretended CUDA device."""

import copy
import io
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from pretend_cuda import Ledger, pretend_cuda
from torch import nn


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with pretend_cuda([__file__]) as ledger:
        yield ledger


def kinds(ledger: Ledger) -> list[str]:
    return sorted(kind for (kind, _), times in ledger.counts.items() for _ in range(times))


ERRORS = {
    "two devices": (RuntimeError, lambda x: x + torch.ones(3)),
    "stacked with a CPU scalar": (
        RuntimeError,
        lambda x: torch.stack([x.sum(), torch.ones(())]),
    ),
    "numpy": (TypeError, lambda x: x.numpy()),
    "CPU generator": (
        RuntimeError,
        lambda x: torch.rand(3, generator=torch.Generator(), device="cuda"),
    ),
    "CUDA generator": (
        RuntimeError,
        lambda x: torch.rand(3, generator=torch.Generator("cuda")),
    ),
    "pinned and expanded": (RuntimeError, lambda x: torch.ones(1, 3).expand(2, -1).pin_memory()),
    "no kernel": (NotImplementedError, lambda x: torch.histogram(x, 3)),
    "integer matrix product": (RuntimeError, lambda x: x.long() @ x.long().T),
}


@pytest.mark.parametrize("what", ERRORS)
def test_errors_of_cuda(ledger: Ledger, what: str) -> None:
    error, call = ERRORS[what]
    with pytest.raises(error):
        call(torch.ones(2, 3, device="cuda"))


COUNTED = {
    "item": lambda x: x.sum().item(),
    "item ": lambda x: bool(x.isfinite().all()),
    "item  ": lambda x: x.tolist(),
    "d2h": lambda x: x.cpu(),
    "shape": lambda x: x[x > 0],
    "shape ": lambda x: x.nonzero(),
    "h2d": lambda x: torch.ones(3).to("cuda"),
    "h2d-async": lambda x: torch.ones(3).to("cuda", non_blocking=True),
    "literal": lambda x: torch.tensor([1, 2], device="cuda"),
    "literal ": lambda x: x.new_tensor([1, 2]),
    "literal  ": lambda x: x[[0, 1]],
    "cpu-index": lambda x: x[torch.tensor([0, 1])],
    "explicit": lambda x: torch.cuda.synchronize(),
}


@pytest.mark.parametrize("what", COUNTED)
def test_waits_are_counted(ledger: Ledger, what: str) -> None:
    COUNTED[what](torch.ones(2, 3, device="cuda"))
    assert kinds(ledger) == [what.strip()]
    ((_, site),) = ledger.counts
    assert site.endswith("<lambda>")


def test_asynchronous_calls_are_not_counted(ledger: Ledger) -> None:
    x = torch.ones(2, 3, device="cuda")
    x[x > 0] = 0.0
    x[:, 1] += torch.tensor(1.0)
    torch.ones(3).pin_memory().to(x.device, non_blocking=True)
    x.uniform_(generator=torch.Generator("cuda").manual_seed(1))
    torch.inference_mode()(F.relu)(x)
    assert not ledger.counts
    assert x.is_cuda
    assert x.device == torch.device("cuda", 0)


def test_training_step_equals_the_cpu(ledger: Ledger) -> None:
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GroupNorm(4, 8))]
    models.append(copy.deepcopy(models[0]).to("cuda"))
    images = torch.rand(2, 3, 8, 8)
    for model in models:
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        model(images.to(model[0].weight.device)).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    for ours, theirs in zip(models[1].parameters(), models[0].parameters(), strict=True):
        assert torch.equal(ours.cpu(), theirs)


def test_autocast(ledger: Ledger) -> None:
    x = torch.rand(2, 3, 8, 8, device="cuda")
    weight = torch.rand(4, 3, 3, 3, device="cuda", requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.is_autocast_enabled("cuda")
        found = F.conv2d(x, weight)
        assert (found.dtype, found.softmax(1).dtype) == (torch.bfloat16, torch.float32)
        with torch.autocast("cuda", enabled=False):
            assert F.conv2d(x, weight).dtype == torch.float32
    found.float().sum().backward()
    assert weight.grad.dtype == torch.float32


def test_saved_tensors_are_on_cuda(ledger: Ledger) -> None:
    file = io.BytesIO()
    torch.save({"x": torch.arange(3, device="cuda")}, file)
    assert b"cuda:0" in file.getvalue()
    file.seek(0)
    assert torch.load(file, map_location="cpu")["x"].tolist() == [0, 1, 2]


def test_leaving_restores_torch() -> None:
    with pretend_cuda([]):
        pass
    assert not torch.cuda.is_available()
    assert torch.Generator is type(torch.default_generator)
    assert torch.ones(3).device.type == "cpu"
    model = nn.DataParallel(nn.Conv2d(3, 3, 1))  # takes any device that it finds
    assert model(torch.rand(1, 3, 2, 2)).device.type == "cpu"
