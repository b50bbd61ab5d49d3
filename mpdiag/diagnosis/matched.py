"""COCO's AP with a weight for each image, so that images can be resampled without new matches.

Detections are matched to the GT of their image once. AP and its bootstrap need only the matched
flags. Without weights, `MatchedDetections.values` equals COCOeval of pycocotools.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mpdiag.diagnosis.image_scores import Floats, ImageScores

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
_BATCH = 16  # weightings in memory at a time


@dataclass(frozen=True)
class ImageDetections:
    """D detections and G ground truths of one image, and their overlaps.

    Attributes:
        labels, scores: (D,).
        iou: (D, G); for a crowd the share of the detection's mask inside it.
        gt_labels: (G,).
        crowd: bool (G,). Detections that match a crowd are ignored.
        ignored: bool (D,), detections that are no false positives if they match no GT.
        queries: (D,) query of each detection.
    """

    labels: Ints
    scores: Floats
    iou: Floats
    gt_labels: Ints
    crowd: Bools
    ignored: Bools
    queries: Ints

    def match(self) -> tuple[Bools, Bools]:
        """Return which detections match at each IoU threshold, and which are ignored.

        Both are (T, D). As in COCOeval, detections choose in the order of their scores, each the
        free GT of its class with the highest IoU, and the last of equal ones.
        """
        return self._matches

    @cached_property
    def _matches(self) -> tuple[Bools, Bools]:
        count = len(self.labels)
        matched = np.zeros((len(IOU_THRESHOLDS), count), dtype=np.bool_)
        ignored = np.zeros_like(matched)
        iou = np.where(self.labels[:, None] == self.gt_labels, self.iou, 0.0)
        limits = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
        taken = np.zeros((len(IOU_THRESHOLDS), len(self.gt_labels)), dtype=np.bool_)
        candidates = (iou >= limits[0]).any(1)
        for row in np.argsort(-self.scores, kind="stable"):
            if not candidates[row]:
                continue
            reaches = iou[row] >= limits[:, None]
            free = reaches & ~self.crowd & ~taken
            values = np.where(free, iou[row], -1.0)
            best = values.shape[1] - 1 - values[:, ::-1].argmax(1)
            found = free.any(1)
            taken[found, best[found]] = True
            matched[found, row] = True
            ignored[:, row] = ~found & (reaches & self.crowd).any(1)
        ignored |= self.ignored & ~matched
        return matched, ignored


@dataclass(frozen=True, slots=True)
class _ClassTable:
    """Detections of one class over all images by descending score.

    Attributes:
        image: (D,) index of the image.
        matched, counted: bool (T, D); detections that are not counted are ignored.
        gt: (I,) GT of each image that count.
    """

    image: Ints
    matched: Bools
    counted: Bools
    gt: Floats

    def ap(self, weights: Floats) -> Floats:
        """Return the (R,) mean precisions over thresholds and recalls; NaN without GT."""
        total = weights @ self.gt
        values = np.zeros((len(weights), len(IOU_THRESHOLDS)))
        drawn = weights[:, self.image]
        for place, (matched, counted) in enumerate(zip(self.matched, self.counted, strict=True)):
            found = np.flatnonzero(matched)
            if not len(found):
                continue
            true = np.cumsum(drawn[:, found], axis=1)
            every = np.cumsum(drawn * counted, axis=1)[:, found]
            precision = np.divide(true, every, out=np.zeros_like(true), where=every > 0)
            # A precision counts for all lower recalls.
            precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = true / np.maximum(total, 1e-9)[:, None]
            for row in range(len(weights)):
                at = np.searchsorted(recall[row], RECALLS, side="left")
                reached = at[at < len(found)]
                values[row, place] = precision[row, reached].sum() / len(RECALLS)
        return np.where(total > 0, values.mean(1), np.nan)


class MatchedDetections(ImageScores):
    """The matched detections of I images, and their AP. `hits` are over all IoU thresholds."""

    def __init__(self, images: Sequence[ImageDetections], num_classes: int) -> None:
        self.num_images = len(images)
        matches = [image.match() for image in images]
        self.hits = np.array([float(matched.sum()) for matched, _ in matches])
        self._tables = _class_tables(images, matches, num_classes)

    def _class_values(self, weights: Floats) -> Floats:
        """Return the (R, K) APs, NaN without GT."""
        parts = [
            np.stack([table.ap(weights[at : at + _BATCH]) for table in self._tables], axis=1)
            for at in range(0, len(weights), _BATCH)
        ]
        return np.concatenate(parts)


def _class_tables(
    images: Sequence[ImageDetections], matches: Sequence[tuple[Bools, Bools]], num_classes: int
) -> list[_ClassTable]:
    matched = np.concatenate([one for one, _ in matches], axis=1)
    ignored = np.concatenate([one for _, one in matches], axis=1)
    labels = np.concatenate([image.labels for image in images])
    scores = np.concatenate([image.scores for image in images])
    places = np.repeat(np.arange(len(images)), [len(image.labels) for image in images])
    # Detections of one image are sorted first, as in COCOeval, which keeps this order for ties.
    order = np.lexsort((-scores, places))
    order = order[np.argsort(-scores[order], kind="stable")]
    gt = np.zeros((num_classes, len(images)))
    for place, image in enumerate(images):
        counting = image.gt_labels[~image.crowd]
        gt[:, place] = np.bincount(counting, minlength=num_classes)[:num_classes]
    tables = []
    for label in range(num_classes):
        rows = order[labels[order] == label]
        tables.append(_ClassTable(places[rows], matched[:, rows], ~ignored[:, rows], gt[label]))
    return tables
