"""PQ against its definition over sets of pixels."""

import math
import tracemalloc
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from mpdiag.metrics import PanopticQuality
from mpdiag.metrics.panoptic_quality import segment_map

THINGS = [True, True, True, False, False, False]  # class 5 never occurs


@dataclass
class Drawn:
    """Segments of one image."""

    ids: Tensor
    labels: Tensor


def drawn(rows: list[str], labels: list[int]) -> Drawn:
    """Return segments written as digits; 0 or a dot is void."""
    ids = [[int(cell) for cell in row.replace(".", "0")] for row in rows]
    return Drawn(torch.tensor(ids, dtype=torch.int32), torch.tensor(labels, dtype=torch.int64))


def scene(seed: int) -> tuple[Drawn, Drawn, Tensor]:
    """Predictions, GT and crowds: rectangles on void; most predictions are shifted GT."""
    rng = np.random.default_rng(seed)
    truth, found = np.zeros((24, 30), np.int32), np.zeros((24, 30), np.int32)
    labels = rng.integers(0, 5, 9)
    guesses = np.where(rng.random(9) < 0.75, labels, rng.integers(0, 5, 9))
    for number in range(1, 10):
        y, x = rng.integers(0, 18), rng.integers(0, 22)
        height, width = rng.integers(3, 12, 2)
        truth[y : y + height, x : x + width] = number
        y, x = max(0, y + rng.integers(-1, 2)), max(0, x + rng.integers(-1, 2))
        found[y : y + height, x : x + width] = number
    # Each predicted segment has a pixel, as after inference; a GT may have none.
    seen, found = np.unique(found, return_inverse=True)
    predicted = Drawn(torch.from_numpy(found), torch.from_numpy(guesses[seen[seen > 0] - 1]))
    crowd = torch.from_numpy(rng.random(9) < 0.25)
    return predicted, Drawn(torch.from_numpy(truth), torch.from_numpy(labels)), crowd


def pixels(segments: Drawn) -> list[set]:
    """Return void and each segment as sets of (y, x)."""
    found: list[set] = [set() for _ in range(len(segments.labels) + 1)]
    for place, number in np.ndenumerate(segments.ids.numpy()):
        found[number].add(place)
    return found


def by_definition(scenes: list[tuple[Drawn, Drawn, Tensor]]) -> dict[int, tuple[float, ...]]:
    """Return PQ, SQ and RQ of each class that occurs."""
    matched: dict[int, list[float]] = {label: [] for label in range(len(THINGS))}
    positives, negatives = Counter[int](), Counter[int]()
    for predicted, truth, crowd in scenes:
        void, *gt = pixels(truth)
        _, *found = pixels(predicted)
        taken_gt, taken_found = set(), set()
        for g, p in np.ndindex(len(gt), len(found)):
            label = int(truth.labels[g])
            if crowd[g] or label != predicted.labels[p]:
                continue
            rest = found[p] - void
            iou = len(gt[g] & rest) / len(gt[g] | rest) if gt[g] | rest else 0
            if iou > 0.5:
                assert g not in taken_gt and p not in taken_found
                taken_gt.add(g)
                taken_found.add(p)
                matched[label].append(iou)
        for g, label in enumerate(truth.labels.tolist()):
            negatives[label] += g not in taken_gt and not crowd[g]
        for p, label in enumerate(predicted.labels.tolist()):
            ignored = set(void)
            for g, own in enumerate(truth.labels.tolist()):
                if crowd[g] and own == label:
                    ignored |= gt[g]
            excused = len(found[p] & ignored) / len(found[p]) > 0.5
            positives[label] += p not in taken_found and not excused
    scores = {}
    for label, ious in matched.items():
        weight = len(ious) + positives[label] / 2 + negatives[label] / 2
        if weight:
            sq = sum(ious) / len(ious) if ious else 0
            scores[label] = (sum(ious) / weight, sq, len(ious) / weight)
    return scores


def metric_of(scenes: list[tuple[Drawn, Drawn, Tensor]]) -> PanopticQuality:
    metric = PanopticQuality(THINGS)
    for one in scenes:
        metric.update(*one)
    return metric


@pytest.mark.parametrize("first", range(0, 60, 6))
def test_equals_the_definition(first: int) -> None:
    scenes = [scene(seed) for seed in range(first, first + 6)]
    scores = metric_of(scenes).compute()
    expected = by_definition(scenes)
    for label, quality in scores.per_class.items():
        if label in expected:
            assert (quality.pq, quality.sq, quality.rq) == pytest.approx(expected[label])
        else:
            assert quality.classes == 0 and math.isnan(quality.pq)
    groups = {
        "all": list(expected),
        "things": [label for label in expected if THINGS[label]],
        "stuff": [label for label in expected if not THINGS[label]],
    }
    for name, labels in groups.items():
        mean = np.mean([expected[label] for label in labels], axis=0)
        quality = getattr(scores, name)
        assert (quality.pq, quality.sq, quality.rq) == pytest.approx(mean.tolist()), name
        assert quality.classes == len(labels)


def test_shards_and_order_do_not_matter() -> None:
    scenes = [scene(seed) for seed in range(12)]
    whole = metric_of(scenes).compute().all
    parts = metric_of(scenes[7:][::-1]) + metric_of([]) + metric_of(scenes[:7][::-1])
    assert parts.compute().all == whole
    with pytest.raises(ValueError, match="different classes"):
        metric_of([]) + PanopticQuality(THINGS[1:])


def test_predictions_equal_to_gt_are_perfect() -> None:
    metric = PanopticQuality(THINGS)
    for seed in range(10):
        predicted, _, _ = scene(seed)
        metric.update(predicted, predicted)
    scores = metric.compute()
    for quality in (scores.all, scores.things, scores.stuff):
        assert (quality.pq, quality.sq, quality.rq) == (1, 1, 1)


def test_void_and_crowd_rules_by_hand() -> None:
    truth = drawn(["11112222....", "3333........"], [0, 1, 3])
    crowd = torch.tensor([False, True, False])
    # 1: one pixel missing, one over void; 2: all in a crowd of its class; 3: in a crowd of another
    # class; 4: void; 5: half void only.
    found = drawn([".111223.444.", "..5555.....1"], [0, 1, 2, 5, 4])
    scores = metric_of([(found, truth, crowd)]).compute()
    assert scores.per_class[0].pq == pytest.approx(3 / 4)
    assert [scores.per_class[label].classes for label in range(6)] == [1, 0, 1, 1, 1, 0]
    assert all(scores.per_class[label].pq == 0 for label in (2, 3, 4))


def test_no_predictions_and_no_gt() -> None:
    found, truth, _ = scene(3)
    nothing = Drawn(torch.zeros_like(truth.ids), torch.empty(0, dtype=torch.int64))
    missed = PanopticQuality(THINGS)
    missed.update(nothing, truth)
    assert missed.compute().all.pq == 0 and missed.compute().all.classes > 0
    unlabelled = PanopticQuality(THINGS)
    unlabelled.update(found, nothing)  # all void: nothing counts
    assert math.isnan(unlabelled.compute().all.pq)
    neither = PanopticQuality(THINGS)
    neither.update(nothing, nothing)
    assert neither.compute().all.classes == 0


def test_an_image_is_added_without_a_copy_of_those_before() -> None:
    """After 2^16 images, whose IoUs take 512 kB in each class."""
    found = drawn(["1122"], [0, 3])
    many = metric_of([(found, found, torch.zeros(2, dtype=torch.bool))])
    for _ in range(16):
        many = many + many
    many.update(found, found)  # the lists grow ahead here
    tracemalloc.start()
    many.update(found, found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    many.update(drawn(["1122"], [1, 4]), found)  # of wrong classes
    quality = many.compute().per_class[0]
    assert quality.sq == 1
    assert quality.rq == pytest.approx((2**16 + 2) / (2**16 + 2.5), abs=1e-12)


def test_invalid_segments_are_errors() -> None:
    good = drawn(["112"], [0, 1])
    with pytest.raises(ValueError, match="segment 2 of the prediction has no label"):
        PanopticQuality(THINGS).update(drawn(["112"], [0]), good)
    with pytest.raises(ValueError, match="size"):
        PanopticQuality(THINGS).update(drawn(["1122"], [0, 1]), good)


def test_segment_map_of_masks() -> None:
    masks = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 1, 0]]], dtype=torch.bool)
    assert segment_map(masks).tolist() == [[1, 1, 2, 0]]
