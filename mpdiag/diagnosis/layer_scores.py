"""Per layer: AP, TIDE's errors, objects and false positives that later layers make worse, and
calibration.

Fading and exacerbation follow Chen et al., Enhanced Training of Query-Based Object Detection via
Selective Query Recollection (CVPR 2023), section 3, at IoU 0.5. The calibration errors are D-ECE of
Küppers et al., Multivariate Confidence Calibration for Object Detection (CVPR workshops 2020), with
confidence only, and LaECE of Oksuz et al., Towards Building Self-Aware Object Detectors (CVPR 2023,
equation 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from mpdiag.diagnosis.error_budget import FOREGROUND, ImageErrors, error_budget
from mpdiag.diagnosis.evidence import Evidence
from mpdiag.diagnosis.matched import ImageDetections, weighted_ap
from mpdiag.metrics.image_scores import Floats
from mpdiag.metrics.weighted_ap import Bools, Ints

DECE_BINS = 20
LAECE_BINS = 25
THRESHOLDS = np.arange(0.05, 1, 0.05)


def layer_scores(evidence: Evidence) -> list[dict[str, Any]]:
    """Return one dictionary per layer: `layer`, `ap`, `ap50`, TIDE's errors, `fading`,
    `exacerbation`, `d_ece`, `la_ece`, `best_threshold`, those of `ranking_scores`, `non_finite`.

    Values are None where there is nothing to average.
    """
    last = evidence.num_layers
    found = [_found_gt(evidence, layer) for layer in range(last + 1)]
    wrong = [ImageErrors.of(image).kind >= 0 for image in evidence.detections()]
    rows = []
    for layer in range(last + 1):
        calibration = Calibration.of(evidence, layer)
        matched = evidence.matched(layer)
        values = {
            "ap": float(matched.values()[0]),
            "ap50": float(matched.at_threshold(0).values()[0]),
            evidence.scorer.name: evidence.score(layer),
            **error_budget(evidence, layer),
            "fading": share(found[layer] & ~found[last], found[layer]),
            "exacerbation": _exacerbation(evidence, layer, wrong),
            "d_ece": calibration.d_ece,
            "la_ece": calibration.la_ece,
            "best_threshold": calibration.threshold,
            **ranking_scores(evidence, layer),
            "non_finite": float(np.mean([np.isnan(x.area[layer]) for x in evidence.images])),
        }
        known = {name: None if np.isnan(value) else value for name, value in values.items()}
        rows.append({"layer": evidence.first_layer + layer, **known})
    return rows


def ranking_scores(evidence: Evidence, layer: int) -> dict[str, float]:
    """Return how well scores rank the detections of a layer.

    `score_iou_correlation` is Spearman's correlation of the score with the IoU with the GT of the
    class. `ap_ranked_by_iou` is the AP if the score of a true positive at IoU 0.5 were its IoU, and
    that of a false positive 0. Stable-DINO (Liu et al., ICCV 2023) trains scores towards the IoU.
    """
    images = evidence.detections(layer)
    iou = [own_iou(image) for image in images]
    scores = np.concatenate([image.scores for image in images])
    every = np.concatenate(iou)
    varied = len(every) > 1 and np.ptp(every) > 0 and np.ptp(scores) > 0
    ranked = [
        replace(image, scores=np.where(image.match.gt[0] >= 0, own, 0.0))
        for image, own in zip(images, iou, strict=True)
    ]
    return {
        "score_iou_correlation": float(spearmanr(scores, every)[0]) if varied else float("nan"),
        "ap_ranked_by_iou": float(weighted_ap(ranked, evidence.num_classes).values()[0]),
    }


def recall_of_layers(evidence: Evidence) -> dict[str, float | None]:
    """Return the shares of GT that the last layer finds, and that any layer finds.

    They are `recall_last_layer` and `recall_any_layer`, None without GT.
    """
    found = [_found_gt(evidence, layer) for layer in range(evidence.num_layers + 1)]
    every = np.ones_like(found[-1])
    if not len(every):
        return {"recall_last_layer": None, "recall_any_layer": None}
    return {
        "recall_last_layer": share(found[-1], every),
        "recall_any_layer": share(np.any(found, axis=0), every),
    }


def share(part: Bools, whole: Bools) -> float:
    """Return the ratio of the counts; NaN for nothing."""
    total = np.count_nonzero(whole)
    return float(np.count_nonzero(part) / total) if total else float("nan")


def _found_gt(evidence: Evidence, layer: int) -> Bools:
    """Return which GT of all images have a true positive in a layer."""
    return np.concatenate([x.found_gt[~x.crowd] for x in evidence.detections(layer)])


def _exacerbation(evidence: Evidence, layer: int, wrong: Sequence[Bools]) -> float:
    """Return the share of the last layer's false positives with a lower score in `layer`.

    Args:
        evidence: the evidence.
        layer: the layer.
        wrong: bool (D,) of each image, false positives among the detections of the last layer.
    """
    lower = total = 0
    for image, found, own in zip(evidence.images, evidence.detections(), wrong, strict=True):
        pairs = found.queries[own], found.labels[own]
        before, after = (image.class_scores(evidence.rule, one)[pairs] for one in (layer, -1))
        lower += int(np.count_nonzero(before < after))
        total += len(after)
    return lower / total if total else float("nan")


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well scores predict that a detection is right.

    Attributes:
        d_ece: mean difference of score and precision.
        la_ece: mean difference of score and precision times IoU, averaged over classes.
        threshold: score with the highest F1.
    """

    d_ece: float
    la_ece: float
    threshold: float

    @classmethod
    def of(cls, evidence: Evidence, layer: int = -1) -> "Calibration":
        """Measure the detections of a layer."""
        scores, labels, iou, objects = [], [], [], 0
        for image, detections in zip(evidence.images, evidence.detections(layer), strict=True):
            match = detections.match
            counted = ~match.ignored[0]
            scores.append(detections.scores[counted])
            labels.append(detections.labels[counted])
            iou.append(np.where(match.gt[0] >= 0, own_iou(detections), 0)[counted])
            objects += int(np.count_nonzero(~image.gt_crowd))
        return cls.from_arrays(
            np.concatenate(scores).astype(np.float64), np.concatenate(labels),
            np.concatenate(iou).astype(np.float64), objects,
        )  # fmt: skip

    @classmethod
    def from_arrays(cls, scores: Floats, labels: Ints, iou: Floats, objects: int) -> "Calibration":
        """Measure D detections; `iou` (D,) is 0 for false positives."""
        true = iou >= FOREGROUND
        every = [_laece(scores[own], iou[own]) for own in (labels == x for x in np.unique(labels))]
        f1 = []
        for limit in THRESHOLDS:
            kept = scores >= limit
            found, given = int(np.count_nonzero(true & kept)), int(np.count_nonzero(kept))
            f1.append(2 * found / max(given + objects, 1))
        return cls(
            _binned(scores, true.astype(np.float64), DECE_BINS),
            float(np.mean(every)) if every else float("nan"),
            float(THRESHOLDS[int(np.argmax(f1))]),
        )


def own_iou(detections: ImageDetections) -> Floats:
    """Return the highest IoU (D,) of each detection with a GT of its class that is no crowd."""
    same = (detections.labels[:, None] == detections.gt_labels) & ~detections.crowd
    own: Floats = np.where(same, detections.iou, 0).max(1, initial=0)
    return own


def _laece(scores: Floats, iou: Floats) -> float:
    """Return the error of one class: precision times the mean IoU of true positives is mean IoU."""
    return _binned(scores, iou, LAECE_BINS)


def _binned(scores: Floats, values: Floats, bins: int) -> float:
    """Return the mean over detections of |mean score - mean value| of their bin of scores."""
    if not len(scores):
        return float("nan")
    place = np.minimum((scores * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    gaps = np.abs(np.bincount(place, scores - values, bins))
    return float(gaps.sum() / count.sum())
