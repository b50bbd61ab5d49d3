"""COCO's AP with a weight for each image, so that images can be resampled without new matches.

Matches do not depend on other images, so they are computed once. Without weights, the AP equals
that of COCOeval of pycocotools.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from mpdiag.metrics.average_precision import ImageMatches
from mpdiag.metrics.image_scores import Floats, ImageScores

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
_BATCH = 16  # weightings in memory at a time


@dataclass(frozen=True, slots=True)
class ClassTable:
    """Detections of one class over all images by descending score.

    Attributes:
        image: (D,) index of the image.
        matched, counted: bool (T, D) at T thresholds; detections that are not counted are ignored.
        gt: (I,) GT of each image that count.
    """

    image: Ints
    matched: Bools
    counted: Bools
    gt: Floats

    @classmethod
    def sort(
        cls, image: Ints, scores: Floats, matched: Bools, ignored: Bools, gt: Floats
    ) -> "ClassTable":
        """Sort detections, given in the order of the images, which COCOeval keeps for ties."""
        order = np.argsort(-scores, kind="stable")
        return cls(image[order], (matched & ~ignored)[:, order], ~ignored[:, order], gt)

    def ap(self, weights: Floats) -> Floats:
        """Return the (R,) mean precisions over thresholds and recalls; NaN without GT."""
        total = weights @ self.gt
        values = np.zeros((len(weights), len(self.matched)))
        drawn = weights[:, self.image]
        everything = np.cumsum(drawn, axis=1)
        for place, (matched, counted) in enumerate(zip(self.matched, self.counted, strict=True)):
            found = np.flatnonzero(matched)
            if not len(found):
                continue
            true = np.cumsum(drawn[:, found], axis=1)
            every = everything if counted.all() else np.cumsum(drawn * counted, axis=1)
            every = every[:, found]
            precision = np.divide(true, every, out=np.zeros_like(true), where=every > 0)
            # A precision counts for all lower recalls.
            precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = true / np.maximum(total, 1e-9)[:, None]
            for row in range(len(weights)):
                at = np.searchsorted(recall[row], RECALLS, side="left")
                reached = at[at < len(found)]
                values[row, place] = precision[row, reached].sum() / len(RECALLS)
        return np.where(total > 0, values.mean(1), np.nan)


class WeightedAP(ImageScores):
    """The AP of I images. `hits` are over all IoU thresholds."""

    def __init__(self, num_images: int, tables: Sequence[ClassTable]) -> None:
        """Keep the table of each class."""
        self.num_images = num_images
        self.hits = np.zeros(num_images)
        for table in tables:
            self.hits += np.bincount(table.image, table.matched.sum(0), num_images)
        self._tables = tables

    @classmethod
    def from_matches(cls, images: Sequence[ImageMatches], classes: Sequence[int]) -> Self:
        """Use the matches of `AveragePrecision` of I images, over GT of all sizes."""
        detections = [(x.labels, x.scores, _bits(x.matched), _bits(x.ignored)) for x in images]
        gt = {
            label: np.array([np.sum((x.counted == (label, 0)).all(1)) for x in images], float)
            for label in classes
        }
        return cls.of_detections(detections, gt)

    @classmethod
    def of_detections(
        cls, images: Sequence[tuple[Ints, Floats, Bools, Bools]], gt: Mapping[int, Floats]
    ) -> Self:
        """Use the matched detections of I images.

        Args:
            images: of each image (D,) labels, (D,) scores, and bool (T, D), which detections match
                a GT and which are ignored at the `IOU_THRESHOLDS`.
            gt: label -> (I,) GT of each image that count.
        """
        places = np.repeat(np.arange(len(images)), [len(labels) for labels, *_ in images])
        labels, scores, matched, ignored = (
            np.concatenate(part, axis=-1) for part in zip(*images, strict=True)
        )
        tables = [
            ClassTable.sort(places[own], scores[own], matched[:, own], ignored[:, own], counts)
            for label, counts in gt.items()
            for own in [labels == label]
        ]
        return cls(len(images), tables)

    def at_threshold(self, place: int) -> "WeightedAP":
        """Return the AP at one of the `IOU_THRESHOLDS` only, as AP50 is at the first."""
        one = slice(place, place + 1)
        tables = [
            replace(table, matched=table.matched[one], counted=table.counted[one])
            for table in self._tables
        ]
        return WeightedAP(self.num_images, tables)

    def _class_values(self, weights: Floats) -> Floats:
        """Return the (R, K) APs, NaN without GT."""
        parts = [
            np.stack([table.ap(weights[at : at + _BATCH]) for table in self._tables], axis=1)
            for at in range(0, len(weights), _BATCH)
        ]
        return np.concatenate(parts)


def _bits(packed: npt.NDArray[np.uint8]) -> Bools:
    """Return (T, D) values of the first area range, all sizes, from the bits of `ImageMatches`."""
    count = len(IOU_THRESHOLDS)
    return np.unpackbits(packed, axis=0, count=count).astype(np.bool_)
