"""mIoU against its definition over sets of pixels."""

import math

import numpy as np
import pytest
import torch

from mpdiag.metrics import SemanticIoU
from mpdiag.metrics.semantic_iou import class_map

CLASSES = 5


def maps(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted and GT class maps; class 3 is never in the GT, class 4 in neither."""
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1, 2, 255], size=(13, 17))
    found = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 4, truth.shape))
    return torch.from_numpy(np.where(found == 255, 1, found)), torch.from_numpy(truth)


def metric_of(seeds: list[int]) -> SemanticIoU:
    metric = SemanticIoU(CLASSES)
    for seed in seeds:
        metric.update(*maps(seed))
    return metric


def test_iou_equals_sets_of_pixels() -> None:
    found, truth = (np.stack([maps(seed)[at].numpy() for seed in range(4)]) for at in (0, 1))
    counted = truth != 255
    ious = []
    for label in range(CLASSES):
        a, b = counted & (found == label), counted & (truth == label)
        ious.append((a & b).sum() / (a | b).sum() if (a | b).any() else math.nan)
    scores = metric_of([0, 1, 2, 3]).compute()
    assert scores.iou.tolist() == pytest.approx(ious, nan_ok=True)
    assert ious[3] == 0 and math.isnan(ious[4])
    assert scores.miou == pytest.approx(np.mean(ious[:4]))
    assert scores.miou_in_gt == pytest.approx(np.mean(ious[:3]))


def test_shards_and_order_do_not_matter() -> None:
    whole = metric_of([0, 1, 2, 3])
    parts = metric_of([3, 1]) + metric_of([]) + metric_of([2, 0])
    assert torch.equal(whole.confusion, parts.confusion)
    with pytest.raises(ValueError, match="different classes"):
        whole + SemanticIoU(CLASSES + 1)


def test_prediction_equal_to_gt_is_perfect() -> None:
    metric = SemanticIoU(CLASSES)
    _, truth = maps(0)
    metric.update(torch.where(truth == 255, 4, truth), truth)
    assert metric.compute().miou == 1 and metric.compute().miou_in_gt == 1


def test_without_counted_pixels_iou_is_nan() -> None:
    metric = SemanticIoU(CLASSES)
    metric.update(torch.zeros(3, 4, dtype=torch.int64), torch.full((3, 4), 255))
    assert math.isnan(metric.compute().miou) and math.isnan(metric.compute().miou_in_gt)


def test_invalid_maps_are_errors() -> None:
    metric = SemanticIoU(CLASSES)
    zeros = torch.zeros(2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="the GT has class 7"):
        metric.update(zeros, zeros + 7)
    with pytest.raises(ValueError, match="the prediction has class -1"):
        metric.update(zeros - 1, zeros)
    with pytest.raises(ValueError, match="size"):
        metric.update(zeros, zeros[:1])


def test_class_map_of_masks() -> None:
    masks = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 1, 0]]], dtype=torch.bool)
    assert class_map(masks, torch.tensor([2, 0])).tolist() == [[2, 2, 0, 255]]
