"""Overlaps and sums of the C++ and PyTorch implementations against counting and float64."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.errors import DependencyError
from mpdiag.ops import (
    compiled_library,
    mask_kernel,
    mask_overlaps,
    masks_of_logits,
    point_sums,
    sample_logits,
)


@pytest.fixture(params=["compiled", "plain"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(mask_kernel, "mask_kernel", lambda: None)
    else:
        assert mask_kernel.mask_kernel() is not None
    return request.param


def draw(*shape: int, scale: float = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * scale


@pytest.mark.parametrize(("rows", "columns"), [(5, 70), (3, 64), (1, 1), (5, 7)])
def test_cells_are_counted(implementation: str, rows: int, columns: int) -> None:
    logits = draw(3, 4, 5, 70)
    logits[1, 2, 0, 0], logits[0, 0, 0, 0] = torch.nan, 0.0  # neither is > 0
    gt = draw(2, rows, columns) > 0
    valid = draw(3, 4) > -3
    assert valid.any() and not valid.all()
    found = mask_overlaps(logits, gt, valid)
    for query in range(4):
        sets = []
        for layer in range(3):
            on = (logits[layer, query, :rows, :columns] > 0).nonzero().tolist()
            sets.append({tuple(cell) for cell in on} if valid[layer, query] else set())
            assert found.area[layer, query] == len(sets[-1])
            for index, mask in enumerate(gt):
                truth = {tuple(cell) for cell in mask.nonzero().tolist()}
                assert found.overlap[layer, query, index] == len(sets[-1] & truth)
        for layer in (1, 2):
            assert found.intersection[layer - 1, query] == len(sets[layer] & sets[layer - 1])


def test_strided_logits(implementation: str) -> None:
    batch = draw(3, 2, 4, 5, 6)
    gt, valid = draw(2, 5, 6) > 0, torch.ones(3, 4, dtype=torch.bool)
    own = mask_overlaps(batch[:, 1].clone(), gt, valid)
    assert all(map(torch.equal, mask_overlaps(batch[:, 1], gt, valid), own))
    transposed = batch[:, 1].transpose(2, 3).contiguous().transpose(2, 3)
    assert all(map(torch.equal, mask_overlaps(transposed, gt, valid), own))


def test_signs_of_float64_and_bfloat16(implementation: str) -> None:
    logits = torch.tensor([1e-300, -1e-300, 1.0, 0.0]).double().view(1, 1, 2, 2)
    logits[0, 0, 0] = torch.tensor([1e-300, -1e-300], dtype=torch.float64)
    no_gt, valid = torch.zeros(0, 2, 2, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    assert mask_overlaps(logits, no_gt, valid).area.item() == 2
    assert mask_overlaps(logits[..., 1:, :].bfloat16(), no_gt[:, 1:], valid).area.item() == 1


@pytest.mark.parametrize("count", [None, 7, 5000])
def test_sums_over_points(implementation: str, count: int | None) -> None:
    logits, gts = draw(2, 3, 4, 9, 11, scale=20), 3
    logits[0, 0, 0, 0, :4] = torch.tensor([200.0, -200.0, 0.0, 1e-8])
    points = None
    if count is not None:
        # Includes points outside, at corners and at edges.
        points = draw(count, 2, scale=0.4) + 0.5
        points[:4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.5], [1.5, 0.5]])
    truth = (draw(3, gts, count or 99) > 0).float() * 0.75
    found = point_sums(logits, truth, points)
    x = logits.double().flatten(3)
    if points is not None:
        x = sample_logits(logits.flatten(0, 1).double(), points.double()).unflatten(0, (2, 3))
    reference = (
        F.softplus(x).sum(-1),
        x.sigmoid().sum(-1),
        torch.einsum("lbnp,bgp->lbng", x, truth.double()),
        torch.einsum("lbnp,bgp->lbng", x.sigmoid(), truth.double()),
    )
    # The rounding error of float32 is proportional to the sum of the terms' absolute values.
    size = x.abs().sum(-1)
    for sums, expected in zip(found, reference, strict=True):
        tolerance = (size if expected.dim() == 3 else size[..., None]) * 1e-6 + 1e-5
        assert ((sums - expected).abs() < tolerance).all()


@pytest.mark.parametrize("size", [(30, 40), (3, 11)])
def test_small_objects(implementation: str, size: tuple[int, int]) -> None:
    """Cells without GT are left out of the sums, which changes nothing."""
    logits, truth = draw(2, 1, 3, *size), torch.zeros(1, 4, *size)
    truth[0, 0, 1, 5:9] = 1  # inside one chunk
    truth[0, 1, :, 10] = 0.5  # in all rows
    truth[0, 2, -1, -1] = 0.25  # the last cell
    found = point_sums(logits, truth.flatten(2), None)
    x, t = logits.double().flatten(3), truth.double().flatten(2)
    for sums, values in ((found.logit_truth, x), (found.sigmoid_truth, x.sigmoid())):
        expected = torch.einsum("lbnp,bgp->lbng", values, t)
        torch.testing.assert_close(sums.double(), expected, rtol=1e-6, atol=1e-5)
        assert (sums[..., 3] == 0).all()


def test_masks_of_logits(implementation: str) -> None:
    logits = draw(3, 50, 41, scale=20)  # more cells than one block of the C++ function
    logits[0] = -1  # an empty mask
    logits[1, :25] = -2
    logits[2, 0, :3] = torch.tensor([0.0, torch.inf, 1e-30])
    inside, area, probability = masks_of_logits(logits)
    assert torch.equal(inside, logits > 0)
    assert area.tolist() == [int(mask.sum()) for mask in inside]
    expected = [float(x.double()[x > 0].sigmoid().sum()) for x in logits]
    assert probability.tolist() == pytest.approx(expected, rel=1e-6)
    strided = masks_of_logits(logits.transpose(1, 2))
    assert torch.equal(strided.inside, inside.transpose(1, 2))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_reach_all_products(implementation: str, value: float) -> None:
    logits, truth = draw(1, 1, 2, 30, 40), torch.zeros(1, 1, 30, 40)
    truth[..., 20, :5] = 1
    logits[0, 0, 1, 0, 0] = value  # far from the object
    found = point_sums(logits, truth.flatten(2), None).logit_truth
    assert found.isfinite().flatten().tolist() == [True, False]


def test_sums_do_not_depend_on_the_batch() -> None:
    logits, truth, points = (
        draw(2, 2, 4, 9, 11),
        (draw(2, 3, 50) > 0).float(),
        draw(50, 2).abs() / 9,
    )
    together = point_sums(logits, truth, points)
    alone = point_sums(logits[1:, :1, 2:3], truth[:1], points)
    for one, all_ in zip(alone, together, strict=True):
        assert torch.equal(one, all_[1:, :1, 2:3])


def test_invalid_shapes(implementation: str) -> None:
    logits, valid = draw(2, 1, 4, 5), torch.ones(2, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="do not match"):
        mask_overlaps(logits, torch.zeros(1, 5, 5, dtype=torch.bool), valid)
    with pytest.raises(ValueError, match="do not match"):
        point_sums(logits[None], torch.zeros(1, 2, 20), None)


def test_warning_without_a_compiler(monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(source: object) -> None:
        raise DependencyError("there is no C++ compiler")

    monkeypatch.setattr(compiled_library, "load_library", fail)
    compiled_library.library_or_none.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert mask_kernel.mask_kernel() is None
        assert mask_kernel.mask_kernel() is None
    compiled_library.library_or_none.cache_clear()
    assert [record.message for record in caplog.records] == [
        "masks are compared by PyTorch, which is slower: there is no C++ compiler"
    ]
