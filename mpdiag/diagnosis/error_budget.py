"""TIDE's six errors of detections, and the AP50 that each costs.

Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors (ECCV 2020), section
2. An error is fixed as the paper does; the gain is the AP50 after the fix minus the AP50 before.
TIDE's AP50 is not COCO's: a class without GT has an AP50 of 0 once it has a detection.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpdiag.diagnosis.evidence import Evidence
from mpdiag.diagnosis.matched import ImageDetections
from mpdiag.metrics.image_scores import Floats
from mpdiag.metrics.weighted_ap import Bools, Ints

FOREGROUND, BACKGROUND = 0.5, 0.1
RECALLS = np.arange(101) / 100  # of tidecv; those of pycocotools differ in the last bit
ERRORS = ("classification", "localisation", "both", "duplicate", "background", "missed")


@dataclass(frozen=True, slots=True)
class ImageErrors:
    """The errors of one image.

    Attributes:
        kind: (D,) index in `ERRORS` of each detection, -1 for a true positive or ignored one.
        true: bool (D,), detections that match a GT at IoU 0.5.
        becomes: (D,) GT that the detection would match once fixed, -1 for none.
        missed: bool (G,), GT that no detection finds, and that no fix lets a detection find.
    """

    kind: Ints
    true: Bools
    becomes: Ints
    missed: Bools

    @classmethod
    def of(cls, image: ImageDetections) -> "ImageErrors":
        """Classify the detections of an image."""
        true, ignored = image.match.gt[0] >= 0, image.match.ignored[0]
        used = image.found_gt
        same = image.labels[:, None] == image.gt_labels
        iou = np.where(image.crowd, 0, image.iou)
        kind, target = np.full(len(true), -1), np.full(len(true), -1)
        for row in np.flatnonzero(~true & ~ignored):
            kind[row], target[row] = _classify(iou[row], same[row], used)
        becomes = _best_detections(target, image.scores)
        usable = np.zeros(len(used), dtype=np.bool_)
        usable[target[target >= 0]] = True
        return cls(kind, true, becomes, ~used & ~usable & ~image.crowd)


def _classify(iou: Floats, same: Bools, used: Bools) -> tuple[int, int]:
    """Return the error of a false positive, and the unused GT that a fix would match or -1."""
    own, other = iou * same, iou * ~same
    if not len(iou):
        return ERRORS.index("background"), -1
    best = int(own.argmax())
    if BACKGROUND <= own[best] <= FOREGROUND:
        return ERRORS.index("localisation"), -1 if used[best] else best
    best = int(other.argmax())
    if other[best] >= FOREGROUND:
        return ERRORS.index("classification"), -1 if used[best] else best
    if (own * used).max() >= FOREGROUND:
        return ERRORS.index("duplicate"), -1
    return ERRORS.index("background" if iou.max() <= BACKGROUND else "both"), -1


def _best_detections(target: Ints, scores: Floats) -> Ints:
    """Keep the target of the detection with the highest score of each GT."""
    becomes = np.full(len(target), -1)
    taken: set[int] = set()
    for row in np.argsort(-scores, kind="stable"):
        if target[row] >= 0 and target[row] not in taken:
            becomes[row] = target[row]
            taken.add(int(target[row]))
    return becomes


def error_budget(evidence: Evidence, layer: int = -1) -> dict[str, float]:
    """Return the AP50 that each error costs in a layer."""
    images = evidence.detections(layer)
    errors = [ImageErrors.of(image) for image in images]
    before = _ap50(images, errors, evidence.num_classes, None)
    return {
        name: _ap50(images, errors, evidence.num_classes, place) - before
        for place, name in enumerate(ERRORS)
    }


def _ap50(
    images: Sequence[ImageDetections],
    errors: Sequence[ImageErrors],
    num_classes: int,
    fixed: int | None,
) -> float:
    """Return TIDE's AP50 after fixing one kind of error, or none."""
    labels, scores, true = [], [], []
    gt = np.zeros(num_classes)
    for image, found in zip(images, errors, strict=True):
        wrong = found.kind == fixed
        moved = wrong & (found.becomes >= 0)
        kept = found.true | ((found.kind >= 0) & ~wrong) | moved
        label = image.labels.copy()
        if fixed == ERRORS.index("classification"):
            label[moved] = image.gt_labels[found.becomes[moved]]
        labels.append(label[kept])
        scores.append(image.scores[kept])
        true.append((found.true | moved)[kept])
        counted = ~image.crowd
        if fixed == ERRORS.index("missed"):
            counted &= ~found.missed
        gt += np.bincount(image.gt_labels[counted], minlength=num_classes)[:num_classes]
    every = [np.concatenate(x) for x in (labels, scores, true)]
    values = [
        _class_ap(every[0], every[1], every[2], label, gt[label]) for label in range(num_classes)
    ]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def _class_ap(labels: Ints, scores: Floats, true: Bools, label: int, gt: float) -> float | None:
    own = labels == label
    if not gt and not own.any():
        return None
    if not gt or not own.any():
        return 0.0
    positive = true[own][np.argsort(-scores[own], kind="stable")]
    found = np.cumsum(positive)
    precision = found / np.arange(1, len(positive) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(found / gt, RECALLS, side="left")
    return float(precision[at[at < len(precision)]].sum() / len(RECALLS))
