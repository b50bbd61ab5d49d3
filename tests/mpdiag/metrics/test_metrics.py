"""mIoU-L and Util by hand, and the rows of an image by brute force."""

import math

import numpy as np
import pytest
import torch

from mpdiag.matching import Target
from mpdiag.metrics import (
    covered_by_others,
    image_rows,
    layer_miou,
    query_utilization,
    utilization,
    valid_cells,
)


def logits(*rows: str) -> torch.Tensor:
    """Return logits (N, 1, cells) of masks written as strings of # and dots."""
    return torch.tensor([[[1.0 if c == "#" else -1.0 for c in row]] for row in rows])


def test_layer_miou_by_hand() -> None:
    masks = torch.stack(
        [
            logits("##..", "....", "#..."),
            logits(".##.", "....", "...."),
            logits(".##.", "#...", "...."),
        ]
    )
    assignment = torch.tensor([[0, -1, 1], [0, 1, -1], [0, 1, -1]])
    found = layer_miou(masks, assignment=assignment)
    # Layer 1: IoU 1/3, empty pair, 0. Layer 2: 1, 0, empty pair.
    assert found.miou_l.tolist() == pytest.approx([1 / 6, 1 / 2])
    assert found.miou_l_empty0.tolist() == pytest.approx([1 / 9, 1 / 3])
    assert found.miou_l_empty1.tolist() == pytest.approx([4 / 9, 2 / 3])
    assert found.empty_pairs.tolist() == pytest.approx([1 / 3, 1 / 3])
    assert found.miou_l_matched is not None
    # Queries 0 and 1 match in the last layer.
    assert found.miou_l_matched.tolist() == pytest.approx([1 / 3, 1 / 2])


def test_a_logit_of_zero_is_outside_and_padding_does_not_count() -> None:
    masks = torch.tensor([[[[1.0, 0.0, 1.0]]], [[[1.0, 1.0, 1.0]]]])
    assert layer_miou(masks).miou_l.tolist() == pytest.approx([2 / 3])
    assert layer_miou(masks, valid=(1, 2)).miou_l.tolist() == pytest.approx([1 / 2])


def test_all_pairs_empty_has_no_average() -> None:
    found = layer_miou(torch.full((2, 3, 4, 4), -1.0))
    assert math.isnan(found.miou_l.item())
    assert found.miou_l_empty1.item() == 1 and found.miou_l_empty0.item() == 0


def test_utilization_by_hand() -> None:
    assignment = torch.tensor([[-1, 1, 0, 2], [0, 1, -1, 2], [0, 2, -1, 1], [0, 1, -1, 2]])
    assert utilization(assignment).tolist() == pytest.approx([2 / 3, 1, 1 / 3, 1])
    assert query_utilization(assignment).tolist() == pytest.approx([1, 1 / 3, 1])
    # Five GT, of which three match: O is 5.
    assert query_utilization(assignment, 5).tolist() == pytest.approx([3 / 5, 1 / 5, 3 / 5])
    assert query_utilization(torch.full((3, 2), -1)).isnan().all()


def test_rows_equal_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(4, 5, 6, 8, generator=generator)
    masks[1, 2] = -1
    masks[2, 2] = -1
    classes = torch.randn(4, 5, 4, generator=generator)
    gt = torch.zeros(3, 24, 32, dtype=torch.bool)
    gt[0, 2:13, 3:20] = True
    gt[1, 11:20, 20:27] = True
    gt[2, 1, 1] = True
    target = Target(labels=torch.tensor([0, 1, 2]), masks=gt)
    assignment = torch.tensor(
        [[0, 1, 2, -1, -1], [0, -1, 1, 2, -1], [-1, 0, 1, 2, -1], [-1, 0, 1, 2, -1]]
    )
    valid = valid_cells(21, 27)
    assert valid == (6, 7)
    found = image_rows(classes, masks, target, assignment, valid)

    binary = (masks > 0).numpy()[..., :6, :7]
    # The mean of the four pixels around the cell centre is at least one half.
    centers = gt.numpy().reshape(3, 6, 4, 8, 4)[:, :, 1:3, :, 1:3].mean((2, 4)) >= 0.5
    centers = centers[..., :7]
    assert np.array_equal(found.gt_masks.numpy(), centers)
    for layer in range(4):
        for query in range(5):
            mask = binary[layer, query]
            assert found.area[layer, query] == mask.sum()
            ys, xs = mask.nonzero()
            center = [(xs + 0.5).mean() / 7, (ys + 0.5).mean() / 6] if len(xs) else [np.nan] * 2
            assert found.center[layer, query].tolist() == pytest.approx(center, nan_ok=True)
            if layer:
                assert (
                    found.intersection[layer - 1, query] == (mask & binary[layer - 1, query]).sum()
                )
            ious = [(mask & g).sum() / max((mask | g).sum(), 1) for g in centers]
            assert found.best_gt_iou[layer, query].item() == pytest.approx(max(ious))
            best = int(np.argmax(ious)) if max(ious) > 0 else -1
            assert found.best_gt[layer, query] == best
            own = assignment[layer, query]
            if own >= 0:
                assert found.matched_gt_iou[layer, query].item() == pytest.approx(ious[own])
            probability = np.exp(classes[layer, query].numpy())
            probability /= probability.sum()
            assert found.label[layer, query] == probability[:3].argmax()
            assert found.score[layer, query].item() == pytest.approx(
                probability[:3].max(), rel=1e-5
            )
        for gt, truth in enumerate(centers):
            over = [(m & truth).sum() / max((m | truth).sum(), 1) for m in binary[layer]]
            assert found.best_query_iou[layer, gt].item() == pytest.approx(max(over))
            best = int(np.argmax(over)) if max(over) > 0 else -1
            assert found.best_query[layer, gt] == best
        shares = [[(m & g).sum() / max(g.sum(), 1) for g in centers] for m in binary[layer]]
        second = [sorted(each)[-2] for each in shares]
        assert found.second_coverage[layer].tolist() == pytest.approx(second)
    assert torch.equal(found.matched_gt, assignment)
    assert found.finite.all() and found.fed_gt_iou is None


def test_rows_of_an_image_without_gt() -> None:
    target = Target(labels=torch.empty(0, dtype=torch.int64), masks=torch.empty(0, 16, 16).bool())
    found = image_rows(
        torch.randn(3, 2, 4), torch.randn(3, 2, 4, 4), target, torch.full((3, 2), -1), (4, 4)
    )
    assert found.util.isnan().all()
    assert (found.best_gt == -1).all() and not found.best_gt_iou.any()


def test_covered_share_of_a_box_by_hand() -> None:
    masks = torch.zeros(4, 4, 6, dtype=torch.bool)
    masks[0, 0:4, 0:3] = True
    masks[0, 1, 1] = False  # a hole, in which the second lies
    masks[1, 1, 1:3] = True
    masks[2, 3, 2:6] = True
    # Others cover 3 of the 12 cells of the first box and 1 of the 2 cells of the second.
    assert covered_by_others(masks).tolist() == pytest.approx([3 / 12, 1 / 2, 1 / 4, 0])


def test_non_finite_predictions_are_not_measured() -> None:
    masks = torch.ones(2, 2, 4, 4)
    masks[1, 0, 0, 0] = torch.nan
    target = Target(labels=torch.tensor([0]), masks=torch.ones(1, 16, 16).bool())
    finite = torch.tensor([[True, True], [False, True]])
    assignment = torch.tensor([[0, -1], [-1, 0]])
    found = image_rows(
        torch.zeros(2, 2, 4),
        masks,
        target,
        assignment,
        (4, 4),
        finite=finite,
        fed_gt=torch.tensor([0, 0]),
    )
    assert found.area.tolist() == [[16, 16], [0, 16]]
    assert found.best_query.tolist() == [[0], [1]]
    assert found.fed_gt_iou is not None and found.fed_gt_iou.tolist() == [[1, 1], [0, 1]]
