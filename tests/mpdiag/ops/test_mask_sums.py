"""Cells and sums over points, compiled and in PyTorch, against float64 and against counting."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.errors import DependencyError
from mpdiag.ops import mask_overlaps, mask_sums, point_sums, sample_logits


@pytest.fixture(params=["compiled", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(mask_sums, "kernels", lambda: None)
    else:
        assert mask_sums.kernels() is not None
    return request.param


def draw(*shape: int, scale: float = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * scale


@pytest.mark.parametrize(("rows", "columns"), [(5, 70), (3, 64), (1, 1), (5, 7)])
def test_cells_are_counted(way: str, rows: int, columns: int) -> None:
    logits = draw(3, 4, 5, 70)
    logits[1, 2, 0, 0], logits[0, 0, 0, 0] = torch.nan, 0.0  # neither is above 0
    gt = draw(2, rows, columns) > 0
    counted = draw(3, 4) > -3
    assert counted.any() and not counted.all()
    found = mask_overlaps(logits, gt, counted)
    for query in range(4):
        sets = []
        for layer in range(3):
            on = (logits[layer, query, :rows, :columns] > 0).nonzero().tolist()
            sets.append({tuple(cell) for cell in on} if counted[layer, query] else set())
            assert found.area[layer, query] == len(sets[-1])
            for index, mask in enumerate(gt):
                truth = {tuple(cell) for cell in mask.nonzero().tolist()}
                assert found.overlap[layer, query, index] == len(sets[-1] & truth)
        for layer in (1, 2):
            assert found.intersection[layer - 1, query] == len(sets[layer] & sets[layer - 1])


def test_cells_of_an_image_in_the_middle_of_a_batch(way: str) -> None:
    batch = draw(3, 2, 4, 5, 6)
    gt, counted = draw(2, 5, 6) > 0, torch.ones(3, 4, dtype=torch.bool)
    own = mask_overlaps(batch[:, 1].clone(), gt, counted)
    assert all(map(torch.equal, mask_overlaps(batch[:, 1], gt, counted), own))
    turned = batch[:, 1].transpose(2, 3).contiguous().transpose(2, 3)
    assert all(map(torch.equal, mask_overlaps(turned, gt, counted), own))


def test_no_sign_of_another_precision_is_lost(way: str) -> None:
    logits = torch.tensor([1e-300, -1e-300, 1.0, 0.0]).double().view(1, 1, 2, 2)
    logits[0, 0, 0] = torch.tensor([1e-300, -1e-300], dtype=torch.float64)
    nothing, counted = torch.zeros(0, 2, 2, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    assert mask_overlaps(logits, nothing, counted).area.item() == 2
    assert mask_overlaps(logits[..., 1:, :].bfloat16(), nothing[:, 1:], counted).area.item() == 1


@pytest.mark.parametrize("count", [None, 7, 5000])
def test_sums_over_points(way: str, count: int | None) -> None:
    logits, gts = draw(2, 3, 4, 9, 11, scale=20), 3
    logits[0, 0, 0, 0, :4] = torch.tensor([200.0, -200.0, 0.0, 1e-8])
    points = None
    if count is not None:
        # Some beyond the borders, on corners and edges.
        points = draw(count, 2, scale=0.4) + 0.5
        points[:4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.5], [1.5, 0.5]])
    truth = (draw(3, gts, count or 99) > 0).float() * 0.75
    found = point_sums(logits, truth, points)
    at = logits.double().flatten(3)
    if points is not None:
        at = sample_logits(logits.flatten(0, 1).double(), points.double()).unflatten(0, (2, 3))
    oracle = (
        F.softplus(at).sum(-1),
        at.sigmoid().sum(-1),
        torch.einsum("lbnp,bgp->lbng", at, truth.double()),
        torch.einsum("lbnp,bgp->lbng", at.sigmoid(), truth.double()),
    )
    # Float32 rounds each of the terms, whose absolute values sum up to this.
    size = at.abs().sum(-1)
    for mine, right in zip(found, oracle, strict=True):
        room = (size if right.dim() == 3 else size[..., None]) * 1e-6 + 1e-5
        assert ((mine - right).abs() < room).all()


def test_a_maps_sums_do_not_depend_on_its_company() -> None:
    logits, truth, points = (
        draw(2, 2, 4, 9, 11),
        (draw(2, 3, 50) > 0).float(),
        draw(50, 2).abs() / 9,
    )
    together = point_sums(logits, truth, points)
    alone = point_sums(logits[1:, :1, 2:3], truth[:1], points)
    for one, all_ in zip(alone, together, strict=True):
        assert torch.equal(one, all_[1:, :1, 2:3])


def test_what_does_not_belong_together_is_refused(way: str) -> None:
    logits, counted = draw(2, 1, 4, 5), torch.ones(2, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="belong together"):
        mask_overlaps(logits, torch.zeros(1, 5, 5, dtype=torch.bool), counted)
    with pytest.raises(ValueError, match="belong together"):
        point_sums(logits[None], torch.zeros(1, 2, 20), None)


def test_without_a_compiler_a_warning(monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(source: object) -> None:
        raise DependencyError("there is no C++ compiler")

    monkeypatch.setattr(mask_sums, "load_library", fail)
    mask_sums.kernels.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert mask_sums.kernels() is None
        assert mask_sums.kernels() is None
    mask_sums.kernels.cache_clear()
    assert [record.message for record in caplog.records] == [
        "masks are compared by PyTorch, which takes longer: there is no C++ compiler"
    ]
