"""Match the detections of an image to its GT, given their overlaps.

A diagnosis changes scores, classes and GT, but measures overlaps once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mpdiag.metrics.image_scores import Floats
from mpdiag.metrics.weighted_ap import IOU_THRESHOLDS, Bools, Ints, WeightedAP


class Match(NamedTuple):
    """The GT (T, D) of each detection at T IoU thresholds, -1 for none, and which are ignored."""

    gt: Ints
    ignored: Bools


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

    @cached_property
    def match(self) -> Match:
        """The match at each of the `IOU_THRESHOLDS`.

        As in COCOeval, detections choose in the order of their scores, each the free GT of its
        class with the highest IoU, and the last of equal ones.
        """
        gt = np.full((len(IOU_THRESHOLDS), len(self.labels)), -1)
        ignored = np.zeros(gt.shape, dtype=np.bool_)
        iou = np.where(self.labels[:, None] == self.gt_labels, self.iou, 0.0)
        # In the precision of the IoUs: 7/10 as float32 is below 0.7 as float64.
        limits = np.minimum(IOU_THRESHOLDS, 1 - 1e-10).astype(iou.dtype)
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
            gt[found, row] = best[found]
            ignored[:, row] = ~found & (reaches & self.crowd).any(1)
        ignored |= self.ignored & (gt < 0)
        return Match(gt, ignored)

    @property
    def found_gt(self) -> Bools:
        """(G,), GT with a true positive at IoU 0.5."""
        return np.isin(np.arange(len(self.gt_labels)), self.match.gt[0])


def weighted_ap(images: Sequence[ImageDetections], num_classes: int) -> WeightedAP:
    """Return the AP of the detections of I images."""
    detections = [(x.labels, x.scores, x.match.gt >= 0, x.match.ignored) for x in images]
    gt = np.zeros((num_classes, len(images)))
    for place, image in enumerate(images):
        counting = image.gt_labels[~image.crowd]
        gt[:, place] = np.bincount(counting, minlength=num_classes)[:num_classes]
    return WeightedAP.of_detections(detections, dict(enumerate(gt)))
