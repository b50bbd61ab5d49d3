"""Losses against loops over the published formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mpdiag.losses import ImportanceSampler, consistency_losses, set_losses
from mpdiag.matching import Target
from mpdiag.ops import sample_masks


@pytest.fixture
def problem() -> tuple[torch.Tensor, torch.Tensor, list[Target], torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    class_logits = torch.randn(2, 3, 4, 6, generator=generator)
    mask_logits = torch.randn(2, 3, 4, 5, 7, generator=generator)
    targets = [
        Target(
            labels=torch.randint(0, 5, (count,), generator=generator),
            masks=torch.rand(count, 5, 7, generator=generator) > 0.5,
        )
        for count in (2, 0, 3)
    ]
    assignment = torch.full((2, 3, 4), -1)
    assignment[0, 0] = torch.tensor([1, -1, 0, -1])
    assignment[1, 0] = torch.tensor([-1, -1, 1, 0])
    assignment[0, 2] = torch.tensor([0, 2, -1, 1])
    assignment[1, 2] = torch.tensor([2, 1, 0, -1])
    return class_logits, mask_logits, targets, assignment


def test_losses_equal_the_formulas(
    problem: tuple[torch.Tensor, torch.Tensor, list[Target], torch.Tensor],
) -> None:
    class_logits, mask_logits, targets, assignment = problem
    found = set_losses(class_logits, mask_logits, targets, assignment, None, num_masks=5)
    for layer in range(2):
        labels = torch.full((3, 4), 5)
        mask = dice = 0.0
        for image, query in torch.cartesian_prod(torch.arange(3), torch.arange(4)).tolist():
            gt = int(assignment[layer, image, query])
            if gt < 0:
                continue
            labels[image, query] = targets[image]["labels"][gt]
            logits = mask_logits[layer, image, query].flatten()
            truth = targets[image]["masks"][gt].flatten().float()
            mask += F.binary_cross_entropy_with_logits(logits, truth).item() / 5
            p = logits.sigmoid()
            dice += (1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)).item() / 5
        weight = torch.tensor([1.0] * 5 + [0.1])
        expected = F.cross_entropy(class_logits[layer].flatten(0, 1), labels.flatten(), weight)
        torch.testing.assert_close(found.class_[layer], expected)
        assert found.mask[layer].item() == pytest.approx(mask, rel=1e-5)
        assert found.dice[layer].item() == pytest.approx(dice, rel=1e-5)


def test_without_gt_only_the_class_loss_has_gradients() -> None:
    class_logits = torch.randn(2, 1, 4, 6, requires_grad=True)
    mask_logits = torch.randn(2, 1, 4, 5, 7, requires_grad=True)
    empty = Target(labels=torch.empty(0, dtype=torch.int64), masks=torch.empty(0, 5, 7).bool())
    assignment = torch.full((2, 1, 4), -1)
    losses = set_losses(class_logits, mask_logits, [empty], assignment, None, num_masks=1)
    assert losses.mask.tolist() == losses.dice.tolist() == [0, 0]
    (losses.class_ + losses.mask + losses.dice).sum().backward()
    assert mask_logits.grad is not None and not mask_logits.grad.any()
    assert class_logits.grad is not None and class_logits.grad.any()


def test_without_gt_large_float16_logits_do_not_overflow() -> None:
    mask_logits = torch.full((2, 1, 100, 64, 64), 30.0, dtype=torch.float16)
    empty = Target(labels=torch.empty(0, dtype=torch.int64), masks=torch.empty(0, 64, 64).bool())
    assignment = torch.full((2, 1, 100), -1)
    losses = set_losses(
        torch.zeros(2, 1, 100, 6), mask_logits, [empty], assignment, None, num_masks=1
    )
    assert losses.mask.tolist() == losses.dice.tolist() == [0, 0]


def test_importance_sampling_prefers_the_boundary() -> None:
    ramp = torch.linspace(-10, 10, 40).expand(1, 40, 40)
    sampler = ImportanceSampler([torch.Generator().manual_seed(0)], num_points=400)
    points = sampler(ramp, torch.zeros(1, dtype=torch.int64))
    assert points.shape == (1, 400, 2)
    near = ((points[0, :, 0] - 0.5).abs() < 0.15).float().mean().item()
    # The 300 most uncertain of 1200 candidates are within 0.125 of the boundary, 100 are anywhere.
    assert near == pytest.approx(0.75 + 0.25 * 0.3, abs=0.05)


def test_sampled_losses_approximate_the_full_ones(
    problem: tuple[torch.Tensor, torch.Tensor, list[Target], torch.Tensor],
) -> None:
    class_logits, _, targets, assignment = problem
    smooth = torch.full((2, 3, 4, 5, 7), 0.3)
    generators = [torch.Generator().manual_seed(image) for image in range(3)]
    sampler = ImportanceSampler(generators, 20000, importance_sample_ratio=0.0)
    sampled = set_losses(class_logits, smooth, targets, assignment, sampler, num_masks=5)
    full = set_losses(class_logits, smooth, targets, assignment, None, num_masks=5)
    # Only points near the border of the image differ.
    torch.testing.assert_close(sampled.mask, full.mask, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("sampled", [False, True])
def test_consistency_losses(sampled: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(3, 2, 4, 6, 6, generator=generator).requires_grad_()
    points = None
    if sampled:
        # Points at cell centres sample the value of a cell.
        cells = torch.randint(0, 6, (2, 9, 2), generator=generator)
        points = (cells + 0.5) / 6
    found = consistency_losses(logits, points)
    for i in (1, 2):
        total = torch.zeros(())
        for image in range(2):
            for query in range(4):
                label, value = logits[i - 1, image, query] > 0, logits[i, image, query]
                if points is not None:
                    x, y = (points[image] * 6).long().unbind(-1)
                    label, value = label[y, x], value[y, x]
                total = total + F.binary_cross_entropy_with_logits(value, label.float())
        torch.testing.assert_close(found[i - 1], total)
    gradient = torch.autograd.grad(found[0], logits)[0]
    assert gradient[1].any() and not gradient[0].any() and not gradient[2].any()


def test_losses_of_parts_of_a_batch_add_up(
    problem: tuple[torch.Tensor, torch.Tensor, list[Target], torch.Tensor],
) -> None:
    class_logits, mask_logits, targets, assignment = problem
    whole = set_losses(class_logits, mask_logits, targets, assignment, None, num_masks=5)
    matched = 5 + 0.1 * 7
    parts = [
        set_losses(
            class_logits[:, part],
            mask_logits[:, part],
            targets[part],
            assignment[:, part],
            None,
            num_masks=5,
            class_weight=matched,
        )
        for part in (slice(0, 1), slice(1, 3))
    ]
    for name in ("class_", "mask", "dice"):
        total = getattr(parts[0], name) + getattr(parts[1], name)
        torch.testing.assert_close(total, getattr(whole, name))


class LargestResult(TorchDispatchMode):
    """Records the size in bytes of the largest result of an operator."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and not func.is_view:
            self.largest = max(self.largest, found.numel() * found.element_size())
        return found


def test_points_do_not_depend_on_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates take at most the budget; the points are those of one draw of all rows."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 5, 7, generator=generator)
    image = torch.randint(0, 3, (40,), generator=generator).where(torch.arange(40) > 0, 3)
    masks = torch.rand(6, 9, 8, generator=generator) > 0.5
    row = torch.randint(0, 6, (40,), generator=generator)

    def sample(budget: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        monkeypatch.setattr("mpdiag.ops.points.MAX_TEMPORARY", budget)
        generators = [torch.Generator().manual_seed(seed) for seed in range(5)]  # one without rows
        with LargestResult() as memory:
            points = ImportanceSampler(generators, num_points=1000)(logits, image)
            return points, sample_masks(masks, row, points), memory.largest

    points, truth, largest = sample(2**30)
    assert largest == 40 * 3000 * 2 * 4
    result = points.numel() * 4
    # One row of candidates takes 24 kB, and one row of the largest index 8 kB.
    for budget, limit in ((1, 24_000), (100_000, 100_000), (500_000, 500_000)):
        found = sample(budget)
        assert torch.equal(found[0], points) and torch.equal(found[1], truth)
        assert found[2] <= max(limit, result)


def test_points_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpdiag.ops.points.MAX_TEMPORARY", 3000)
    logits = torch.randn(9, 5, 7, generator=torch.Generator().manual_seed(0))

    def sample(rows: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        image = torch.tensor([seeds.index(seed) for seed in owners[rows].tolist()])
        return ImportanceSampler(generators, num_points=30)(logits[rows], image)

    owners = torch.tensor([1, 0, 1, 1, 0, 1, 0, 1, 1])
    together = sample(torch.arange(9), [0, 1])
    for seed in (0, 1):
        rows = (owners == seed).nonzero()[:, 0]
        assert torch.equal(sample(rows, [seed]), together[rows])
