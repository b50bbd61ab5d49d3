"""Training on a GPU: steps, precision, resuming and DistributedDataParallel."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mpdiag.data import Sample, SegmentationDataset
from trainers.distributed import DistributedContext
from trainers.prefetch import prefetch
from trainers.recipe import load_recipe
from trainers.trainer import Trainer

SETTINGS = (
    "model.num_classes=7",
    "model.label_embedding=true",
    "model.hidden_dim=32",
    "model.mask_dim=32",
    "model.encoder_layers=1",
    "model.decoder_layers=2",
    "model.num_queries=12",
    "model.backbone={name: resnet18, channels: [8, 8, 16, 16], stem_channels: 8, norm: frozen}",
    "init=null",
    "pilot.num_queries=12",
    "loss.num_points=64",
    "method=piloted",
    "tf32=none",
)


@pytest.fixture
def samples(data: SegmentationDataset) -> list[Sample]:
    return [data[0], data[1]]


def trainer_on(device: torch.device, *changes: str) -> Trainer:
    config = load_recipe("synthetic-tiny", [*SETTINGS, *changes])
    return Trainer(config, (), DistributedContext(0, 1, device))


def take_step(trainer: Trainer, samples: list[Sample]) -> dict[str, float]:
    losses, norm = trainer.step(samples, range(len(samples)))
    return {"norm": norm.item(), **{name: loss.item() for name, loss in losses.items()}}


def test_step_equals_the_cpu(gpu: torch.device, samples: list[Sample]) -> None:
    """All cells are compared, because a GPU draws other random points and noise."""
    changes = ("loss.num_points=all", "pilot.noise=none", "pilot.label_noise=0")
    expected = take_step(trainer_on(torch.device("cpu"), *changes), samples)
    (copied,) = prefetch(iter([samples]), gpu)
    found = take_step(trainer_on(gpu, *changes), copied)
    assert found == pytest.approx(expected, rel=1e-3)


def test_bf16_is_near_float32(gpu: torch.device, samples: list[Sample]) -> None:
    losses = {}
    for precision in ("float32", "bf16"):
        trainer = trainer_on(gpu, f"precision={precision}")
        losses[precision] = take_step(trainer, samples)
        assert all(weights.dtype == torch.float32 for weights in trainer.model.parameters())
    # The MP part needs no matching, which rounding may change.
    for term in ("ce", "mask", "dice"):
        name = f"loss_{term}_dn_0"
        assert losses["bf16"][name] == pytest.approx(losses["float32"][name], rel=0.02), name


def test_resumed_training_takes_the_same_steps(
    gpu: torch.device, samples: list[Sample], tmp_path: Path
) -> None:
    """Not bit-equal: atomic additions sum gradients in any order."""
    whole = trainer_on(gpu)
    take_step(whole, samples)
    whole.save(tmp_path / "last.pth")
    resumed = trainer_on(gpu)
    resumed.restore(tmp_path / "last.pth")
    assert resumed.iteration == 1
    states = [trainer.optimizer.state_dict()["state"] for trainer in (whole, resumed)]
    assert all(torch.equal(states[0][key]["exp_avg"].cpu(), states[1][key]["exp_avg"].cpu())
               for key in states[0])  # fmt: skip
    found, expected = take_step(resumed, samples), take_step(whole, samples)
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.fixture(params=["gloo", pytest.param("nccl", marks=pytest.mark.cuda)])
def process_group(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Initialize a process group of one process and return its device."""
    device = torch.device("cuda", 0) if request.param == "nccl" else torch.device("cpu")
    dist.init_process_group(request.param, store=dist.HashStore(), rank=0, world_size=1)
    yield device
    dist.destroy_process_group()


def test_distributed_data_parallel_of_one_process(
    process_group: torch.device, samples: list[Sample]
) -> None:
    """The gradients are those without it; DDP reports parameters that get none."""
    alone, parallel = trainer_on(process_group), trainer_on(process_group)
    parallel.replica = nn.parallel.DistributedDataParallel(
        parallel.method, gradient_as_bucket_view=True
    )
    found, expected = (
        [take_step(trainer, samples) for _ in range(2)] for trainer in (parallel, alone)
    )
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    assert found[1] == pytest.approx(expected[1], rel=1e-2)
