"""Panoptic quality: PQ, SQ and RQ over all classes, things and stuff.

Kirillov et al., *Panoptic Segmentation* (CVPR 2019, arXiv 1801.00868), section 4. Void and crowds
follow the rules of COCO's panopticapi. Mask2Former also reports AP^Th_pan, the `AveragePrecision`
of the things' instances, and mIoU_pan, the `SemanticIoU` of the class map.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


class Segments(Protocol):
    """Disjoint segments of one image: (H, W) ids, 0 for void, and the class of ids 1..S."""

    @property
    def ids(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Quality:
    """Fractions; NaN without a class. PQ = SQ x RQ holds for each class, but not for averages.

    Attributes:
        pq: panoptic quality.
        sq: mean IoU of the matched segments, 0 if none.
        rq: F1 score of the segments.
        classes: number of averaged classes, which have a segment in GT or predictions.
    """

    pq: float
    sq: float
    rq: float
    classes: int


@dataclass(frozen=True, slots=True)
class PanopticScores:
    """Averages over classes, and the quality of each class."""

    all: Quality
    things: Quality
    stuff: Quality
    per_class: dict[int, Quality]


@dataclass(slots=True)
class ClassCounts:
    """IoU of each true positive of a class, and its numbers of false positives and negatives."""

    ious: list[float] = field(default_factory=list)
    false_positives: int = 0
    false_negatives: int = 0

    def add(self, other: "ClassCounts") -> None:
        """Add the counts of other images."""
        self.ious += other.ious
        self.false_positives += other.false_positives
        self.false_negatives += other.false_negatives

    def quality(self) -> Quality:
        """Return PQ, SQ and RQ of the class; sums are exact, so the order does not matter."""
        matched, total = len(self.ious), math.fsum(self.ious)
        weight = matched + 0.5 * self.false_positives + 0.5 * self.false_negatives
        if not weight:
            return Quality(math.nan, math.nan, math.nan, 0)
        sq = total / matched if matched else 0.0
        return Quality(total / weight, sq, matched / weight, 1)


class PanopticQuality:
    """Panoptic quality over images that are added in any order; `a + b` merges two shards.

    `things` is True for each class index that is a thing.
    """

    def __init__(self, things: Sequence[bool]) -> None:
        self.things = list(things)
        self._counts = [ClassCounts() for _ in self.things]

    def update(
        self, predicted: Segments, ground_truth: Segments, crowd: Tensor | None = None
    ) -> None:
        """Add an image.

        Args:
            predicted: predicted segments.
            ground_truth: GT segments of the same size.
            crowd: (G,) bool, True for GT segments that are crowds; none if None.
        """
        self._add(match_segments(predicted, ground_truth, crowd, len(self.things)))

    def _add(self, counts: Sequence[ClassCounts]) -> None:
        for own, new in zip(self._counts, counts, strict=True):
            own.add(new)

    def __add__(self, other: "PanopticQuality") -> "PanopticQuality":
        """Return the metric of both shards; ValueError if their classes differ."""
        if self.things != other.things:
            raise ValueError("shards of different classes cannot be merged")
        merged = PanopticQuality(self.things)
        merged._add(self._counts)
        merged._add(other._counts)
        return merged

    def compute(self) -> PanopticScores:
        """Return the averages over all images."""
        per_class = [counts.quality() for counts in self._counts]
        pairs = list(zip(per_class, self.things, strict=True))
        return PanopticScores(
            all=_average(per_class),
            things=_average(quality for quality, thing in pairs if thing),
            stuff=_average(quality for quality, thing in pairs if not thing),
            per_class=dict(enumerate(per_class)),
        )


def match_segments(
    predicted: Segments, ground_truth: Segments, crowd: Tensor | None, num_classes: int
) -> list[ClassCounts]:
    """Match the segments of one image and count each class.

    Two segments of a class match if their IoU is above one half, where the union excludes pixels
    that are void in the GT. GT crowds neither match nor are missed. An unmatched prediction is not
    a false positive if more than half of it is void or crowds of its class (all of them; COCO has
    at most one per class, and panopticapi uses one).

    Returns:
        The counts of each class.

    Raises:
        ValueError: the sizes differ, or an id has no label.
    """
    shared = _shared_pixels(predicted, ground_truth)
    void, cells = shared[0, 1:], shared[1:, 1:]
    gt_area, predicted_area = shared[1:].sum(1), shared[:, 1:].sum(0)
    gt_label, predicted_label = ground_truth.labels.cpu(), predicted.labels.cpu()
    is_crowd = torch.zeros(len(gt_label), dtype=torch.bool) if crowd is None else crowd.cpu()
    union = gt_area[:, None] + predicted_area - cells - void
    same = gt_label[:, None] == predicted_label
    match = same & ~is_crowd[:, None] & (2 * cells > union)
    ignored = void + (cells * (same & is_crowd[:, None])).sum(0)

    counts = [ClassCounts() for _ in range(num_classes)]
    for row, column in match.nonzero().tolist():
        iou = int(cells[row, column]) / int(union[row, column])
        counts[int(gt_label[row])].ious.append(iou)
    for label in gt_label[~match.any(1) & ~is_crowd].tolist():
        counts[label].false_negatives += 1
    for label in predicted_label[~match.any(0) & (2 * ignored <= predicted_area)].tolist():
        counts[label].false_positives += 1
    return counts


def segment_map(masks: Tensor) -> Tensor:
    """Return int32 (H, W) ids 1..G of disjoint masks (G, H, W), 0 for no mask."""
    ids = masks.new_zeros(masks.shape[1:], dtype=torch.int32)
    for number, mask in enumerate(masks, start=1):
        ids[mask] = number
    return ids


def _shared_pixels(predicted: Segments, ground_truth: Segments) -> Tensor:
    """Return the (G + 1, S + 1) pixels that each pair of ids shares, void first."""
    if predicted.ids.shape != ground_truth.ids.shape:
        raise ValueError(
            f"segments have size {tuple(predicted.ids.shape)} and GT has size"
            f" {tuple(ground_truth.ids.shape)}"
        )
    rows, columns = len(ground_truth.labels) + 1, len(predicted.labels) + 1
    for name, segments, count in (("GT", ground_truth, rows), ("prediction", predicted, columns)):
        if segments.ids.numel() and int(segments.ids.max()) >= count:
            raise ValueError(f"segment {int(segments.ids.max())} of the {name} has no label")
    pair = ground_truth.ids.long().to(predicted.ids.device) * columns + predicted.ids
    return pair.flatten().bincount(minlength=rows * columns).view(rows, columns).cpu()


def _average(qualities: Iterable[Quality]) -> Quality:
    counted = [quality for quality in qualities if quality.classes]
    if not counted:
        return Quality(math.nan, math.nan, math.nan, 0)
    number = len(counted)
    return Quality(
        math.fsum(quality.pq for quality in counted) / number,
        math.fsum(quality.sq for quality in counted) / number,
        math.fsum(quality.rq for quality in counted) / number,
        number,
    )
