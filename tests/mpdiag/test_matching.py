"""Matching against loops over the published costs and all assignments."""

from itertools import permutations

import pytest
import torch

from mpdiag.errors import TrainingError
from mpdiag.matching import (
    MatchingCosts,
    Target,
    finite_queries,
    match,
    match_with_costs,
    matching_cost,
)


def problem(
    objects: list[int], queries: int, layers: int = 3
) -> tuple[torch.Tensor, torch.Tensor, list[Target]]:
    generator = torch.Generator().manual_seed(0)
    class_logits = torch.randn(layers, len(objects), queries, 4, generator=generator)
    mask_logits = 3 * torch.randn(layers, len(objects), queries, 6, 8, generator=generator)
    targets = [
        Target(
            labels=torch.randint(0, 3, (count,), generator=generator),
            masks=torch.rand(count, 6, 8, generator=generator) > 0.5,
        )
        for count in objects
    ]
    return class_logits, mask_logits, targets


def reference_cost(
    classes: torch.Tensor, masks: torch.Tensor, label: int, truth: torch.Tensor
) -> torch.Tensor:
    """Return the cost of all queries for one GT, as the official matcher, on all cells."""
    truth = truth.flatten().float()
    costs = []
    for class_logits, logits in zip(classes, masks.flatten(1), strict=True):
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
        probability = logits.sigmoid()
        dice = 1 - (2 * (probability * truth).sum() + 1) / (probability.sum() + truth.sum() + 1)
        costs.append(-2 * class_logits.softmax(0)[label] + 5 * entropy + 5 * dice)
    return torch.stack(costs)


def test_cost_equals_the_official_matcher() -> None:
    class_logits, mask_logits, targets = problem([3, 1], queries=5)
    cost = matching_cost(class_logits, mask_logits, targets, MatchingCosts(), None)
    for layer in range(3):
        for image, target in enumerate(targets):
            for gt, label in enumerate(target["labels"].tolist()):
                expected = reference_cost(
                    class_logits[layer, image],
                    mask_logits[layer, image],
                    label,
                    target["masks"][gt],
                )
                torch.testing.assert_close(cost[layer, image, :, gt], expected)


@pytest.mark.parametrize("objects, queries", [([3, 2], 4), ([5, 4], 3)])
def test_total_cost_is_the_minimum(objects: list[int], queries: int) -> None:
    class_logits, mask_logits, targets = problem(objects, queries)
    cost = matching_cost(class_logits, mask_logits, targets, MatchingCosts(), None)
    found = match(class_logits, mask_logits, targets)
    for layer in range(3):
        for image, count in enumerate(objects):
            table = cost[layer, image, :, :count]
            pairs = [(q, g) for q, g in enumerate(found[layer, image].tolist()) if g >= 0]
            assert len(pairs) == min(queries, count) == len({g for _, g in pairs})
            long, short = (queries, count) if queries >= count else (count, queries)
            table = table if queries >= count else table.T
            minimum = min(
                sum(table[row, column].item() for column, row in enumerate(rows))
                for rows in permutations(range(long), short)
            )
            total = sum(cost[layer, image, q, g].item() for q, g in pairs)
            assert total == pytest.approx(minimum, abs=1e-5)


def test_points_at_all_cell_centers_equal_all_cells() -> None:
    class_logits, mask_logits, targets = problem([3, 2], queries=5)
    from mpdiag.ops import cell_centers

    grid = matching_cost(class_logits, mask_logits, targets, MatchingCosts(), None)
    points = matching_cost(class_logits, mask_logits, targets, MatchingCosts(), cell_centers(6, 8))
    torch.testing.assert_close(points[..., :2], grid[..., :2])


def test_images_without_gt() -> None:
    class_logits, mask_logits, targets = problem([0, 2], queries=3)
    found = match(class_logits, mask_logits, targets)
    assert (found[:, 0] == -1).all()
    assert ((found[:, 1] >= 0).sum(-1) == 2).all()
    class_logits, mask_logits, targets = problem([0, 0], queries=3)
    assert (match(class_logits, mask_logits, targets) == -1).all()


def test_non_finite_cost_is_named() -> None:
    class_logits, mask_logits, targets = problem([2, 2], queries=3)
    mask_logits[1, 1, 0] = torch.nan
    with pytest.raises(TrainingError, match="layer 1, image 1"):
        match(class_logits, mask_logits, targets)


def test_costs_of_the_pairs() -> None:
    class_logits, mask_logits, targets = problem([3, 0, 1], queries=5)
    weights = MatchingCosts(2, 4, 3)
    finite = finite_queries(class_logits, mask_logits)
    found = match_with_costs(class_logits, mask_logits, targets, finite, costs=weights)
    assert torch.equal(found.assignment, match(class_logits, mask_logits, targets, costs=weights))
    table = matching_cost(class_logits, mask_logits, targets, weights, None)
    dice = matching_cost(class_logits, mask_logits, targets, MatchingCosts(0, 0, 3), None)
    total = found.class_cost - 2 + found.mask_cost + found.dice_cost
    for layer, image, query in torch.cartesian_prod(*map(torch.arange, (3, 3, 5))).tolist():
        at = (layer, image, query)
        gt = int(found.assignment[at])
        if gt < 0:
            assert total[at].isnan() and found.margin[at].isnan()
            continue
        assert total[at].item() == pytest.approx(table[layer, image, query, gt].item(), abs=1e-5)
        assert found.dice_cost[at].item() == pytest.approx(dice[layer, image, query, gt].item())
        costs = table[layer, image, :, gt].tolist()
        others = costs[:query] + costs[query + 1 :]
        assert found.margin[at].item() == pytest.approx(min(others) - costs[query], abs=1e-5)


def test_non_finite_queries_match_nothing() -> None:
    class_logits, mask_logits, targets = problem([2, 2], queries=3)
    mask_logits[1, 1, 0, 2, 2] = torch.nan
    class_logits[2, 0, 1, 0] = torch.inf
    mask_logits[0, 1] = torch.nan
    finite = finite_queries(class_logits, mask_logits)
    assert (~finite).nonzero().tolist() == [[0, 1, 0], [0, 1, 1], [0, 1, 2], [1, 1, 0], [2, 0, 1]]
    found = match_with_costs(class_logits, mask_logits, targets, finite)
    assert (found.assignment[~finite] == -1).all()
    matched = (found.assignment >= 0).sum(-1)
    assert matched.tolist() == [[2, 0], [2, 2], [2, 2]]
    assert found.margin[found.assignment >= 0].isfinite().sum() == 10
    one = slice(1)
    single = match_with_costs(
        class_logits[:, :, one], mask_logits[:, :, one], targets, finite[..., one]
    )
    assert single.margin.isnan().all()  # there is no other query
