"""Panoptic quality: PQ, SQ and RQ over all classes, things and stuff.

Kirillov et al., *Panoptic Segmentation* (CVPR 2019, arXiv 1801.00868), section 4; the rules for
void and crowds are those of COCO's panopticapi. AP^Th_pan and mIoU_pan, which Mask2Former reports
beside PQ, are `AveragePrecision` of the things' instances and `SemanticIoU` of the class map.
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
    """Fractions, NaN without a class. PQ = SQ x RQ holds for each class, not for averages.

    Attributes:
        pq: panoptic quality.
        sq: mean IoU of the matched segments, 0 if none.
        rq: F1 score of the segments.
        classes: how many classes were averaged: those with a segment in GT or predictions.
    """

    pq: float
    sq: float
    rq: float
    classes: int


@dataclass(frozen=True, slots=True)
class PanopticScores:
    """Averages over classes, and each class's own quality."""

    all: Quality
    things: Quality
    stuff: Quality
    per_class: dict[int, Quality]


@dataclass(slots=True)
class ClassCounts:
    """One class: IoU of each true positive, number of false positives and of false negatives."""

    ious: list[float] = field(default_factory=list)
    false_positives: int = 0
    false_negatives: int = 0

    def __add__(self, other: "ClassCounts") -> "ClassCounts":
        return ClassCounts(
            self.ious + other.ious,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )

    def quality(self) -> Quality:
        """The class's PQ, SQ and RQ; sums are exact, so that the order of images is no matter."""
        matched, total = len(self.ious), math.fsum(self.ious)
        weight = matched + 0.5 * self.false_positives + 0.5 * self.false_negatives
        if not weight:
            return Quality(math.nan, math.nan, math.nan, 0)
        sq = total / matched if matched else 0.0
        return Quality(total / weight, sq, matched / weight, 1)


class PanopticQuality:
    """Gathers images in any order; `a + b` unites what two shards gathered.

    `things` says of each class index whether it is countable.
    """

    def __init__(self, things: Sequence[bool]) -> None:
        self.things = list(things)
        self._counts = [ClassCounts() for _ in self.things]

    def update(self, found: Segments, truth: Segments, crowd: Tensor | None = None) -> None:
        """Add an image.

        Args:
            found: predicted segments.
            truth: GT segments at the same size.
            crowd: (G,) bool, which GT segments are crowds; none if None.
        """
        counts = compare_segments(found, truth, crowd, len(self.things))
        self._counts = [old + new for old, new in zip(self._counts, counts, strict=True)]

    def __add__(self, other: "PanopticQuality") -> "PanopticQuality":
        """What both gathered. ValueError where their classes differ."""
        if self.things != other.things:
            raise ValueError("shards of different classes can't be united")
        united = PanopticQuality(self.things)
        united._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]
        return united

    def compute(self) -> PanopticScores:
        """The averages of all images so far."""
        per_class = [counts.quality() for counts in self._counts]
        pairs = list(zip(per_class, self.things, strict=True))
        return PanopticScores(
            all=_average(per_class),
            things=_average(quality for quality, thing in pairs if thing),
            stuff=_average(quality for quality, thing in pairs if not thing),
            per_class=dict(enumerate(per_class)),
        )


def compare_segments(
    found: Segments, truth: Segments, crowd: Tensor | None, num_classes: int
) -> list[ClassCounts]:
    """Match the segments of one image, class by class.

    Two segments of a class match where their IoU is above one half, with the pixels left out of
    the union that are void in the GT. GT crowds never match nor are they missed. An unmatched
    prediction is no false positive where more than half of it is void or crowd of its class (all
    its crowds; COCO has one a class at most, and panopticapi takes one).

    Returns:
        The counts of each class.

    Raises:
        ValueError: the two differ in size, or an id has no label.
    """
    shared = _shared_pixels(found, truth)
    void, cells = shared[0, 1:], shared[1:, 1:]
    truth_area, found_area = shared[1:].sum(1), shared[:, 1:].sum(0)
    truth_label, found_label = truth.labels.cpu(), found.labels.cpu()
    is_crowd = torch.zeros(len(truth_label), dtype=torch.bool) if crowd is None else crowd.cpu()
    union = truth_area[:, None] + found_area - cells - void
    same = truth_label[:, None] == found_label
    match = same & ~is_crowd[:, None] & (2 * cells > union)
    ignored = void + (cells * (same & is_crowd[:, None])).sum(0)

    counts = [ClassCounts() for _ in range(num_classes)]
    for row, column in match.nonzero().tolist():
        iou = int(cells[row, column]) / int(union[row, column])
        counts[int(truth_label[row])].ious.append(iou)
    for label in truth_label[~match.any(1) & ~is_crowd].tolist():
        counts[label].false_negatives += 1
    for label in found_label[~match.any(0) & (2 * ignored <= found_area)].tolist():
        counts[label].false_positives += 1
    return counts


def segment_map(masks: Tensor) -> Tensor:
    """int32 (H, W) ids 1..G of disjoint masks (G, H, W), 0 where there is none."""
    ids = masks.new_zeros(masks.shape[1:], dtype=torch.int32)
    for number, mask in enumerate(masks, start=1):
        ids[mask] = number
    return ids


def _shared_pixels(found: Segments, truth: Segments) -> Tensor:
    """(G + 1, S + 1) pixels that each pair of ids shares, void first."""
    if found.ids.shape != truth.ids.shape:
        raise ValueError(
            f"segments of size {tuple(found.ids.shape)} can't be compared with GT of size"
            f" {tuple(truth.ids.shape)}"
        )
    rows, columns = len(truth.labels) + 1, len(found.labels) + 1
    for name, segments, count in (("GT", truth, rows), ("prediction", found, columns)):
        if segments.ids.numel() and int(segments.ids.max()) >= count:
            raise ValueError(f"segment {int(segments.ids.max())} of the {name} has no label")
    pair = truth.ids.long().to(found.ids.device) * columns + found.ids
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
