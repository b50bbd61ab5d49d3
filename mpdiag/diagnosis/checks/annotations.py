"""Wrong classes, missing objects and duplicates in the annotations."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from mpdiag.diagnosis.candidate import Candidate
from mpdiag.diagnosis.checks.query_supply import suppressed
from mpdiag.diagnosis.evidence import Evidence, ImageEvidence, softmax
from mpdiag.diagnosis.probe import assigned_gt
from mpdiag.metrics.image_scores import Floats
from mpdiag.metrics.weighted_ap import Bools, Ints

CONFIDENT = 0.9
SAME_GT_IOU = 0.75
BACKGROUND_IOU = 0.1
EXCESS = 2.0
TEMPERATURES = tuple(float(x) for x in np.geomspace(0.5, 4, 13))
SHARES = tuple(float(x) for x in np.arange(0, 0.61, 0.02))
MAX_SHARE = 0.5  # above, the model rather than the annotations is wrong
MIN_LOG_LIKELIHOOD = 6.0


def check_duplicate_gt(evidence: Evidence) -> Iterator[Candidate]:
    """Yield the removal of GT that repeat another one of the image and class."""
    kept = [_first_of_duplicates(image) for image in evidence.images]
    removed = [int(np.logical_not(one).sum()) for one in kept]
    if sum(removed):
        yield Candidate(
            "overlapping-labels",
            edit=partial(_keep_gt, kept=kept),
            evidence={"objects": sum(removed), "images": evidence.images_with_most(removed)},
        )


def _first_of_duplicates(image: ImageEvidence) -> Bools:
    single = ~image.gt_crowd
    same = (image.gt_overlap >= SAME_GT_IOU) & single[:, None] & single
    same &= image.gt_labels[:, None] == image.gt_labels
    kept: Bools = np.logical_not(np.tril(same, -1).any(1))
    return kept


def _keep_gt(evidence: Evidence, kept: Sequence[Bools]) -> Evidence:
    images = [
        replace(
            image,
            iou=image.iou[..., one],
            gt_labels=image.gt_labels[one],
            gt_crowd=image.gt_crowd[one],
            gt_center=image.gt_center[one],
            gt_area=image.gt_area[one],
            gt_overlap=image.gt_overlap[np.ix_(one, one)],
        )
        for image, one in zip(evidence.images, kept, strict=True)
    ]
    return evidence.changed(images)


def check_wrong_labels(evidence: Evidence) -> Iterator[Candidate]:
    """Yield new classes for GT that are probably mislabelled.

    The label of a GT is taken to be wrong with probability e, and then any other class. The class
    probabilities of its query are sharpened or flattened by a temperature. Both are fitted by
    maximum likelihood, so that a model that is merely too sure does not count as label noise.
    Northcutt et al., Confident learning (JAIR 2021), estimate label noise from probabilities too.

    A run has no low probabilities, and an annotated class of unknown probability may be right.
    """
    if not evidence.every_class:
        return
    pairs = [assigned_gt(image) for image in evidence.images]
    logits = [
        image.class_logits[-1, gt >= 0, :-1]
        for image, gt in zip(evidence.images, pairs, strict=True)
    ]
    labels = [
        image.gt_labels[gt[gt >= 0]] for image, gt in zip(evidence.images, pairs, strict=True)
    ]
    share, temperature, evidence_for = fit_label_noise(
        np.concatenate(logits).astype(np.float64), np.concatenate(labels)
    )
    if evidence_for < MIN_LOG_LIKELIHOOD or evidence.num_classes < 2 or share > MAX_SHARE:
        return
    relabelled, changed = [], []
    for image, gt, own, given in zip(evidence.images, pairs, logits, labels, strict=True):
        new = image.gt_labels.copy()
        probability = softmax(own.astype(np.float64) / temperature)
        new[gt[gt >= 0]] = corrected_labels(probability, given, share)
        relabelled.append(new)
        changed.append(int(np.count_nonzero(new != image.gt_labels)))
    if sum(changed):
        yield Candidate(
            "label-noise",
            edit=partial(_relabel_gt, labels=relabelled),
            evidence={
                "objects": sum(changed),
                "estimated_share": share,
                "images": evidence.images_with_most(changed),
            },
        )


def fit_label_noise(logits: Floats, labels: Ints) -> tuple[float, float, float]:
    """Return the share of wrong labels, the temperature, and the gain in log likelihood.

    Args:
        logits: (O, K) of the queries of O objects.
        labels: (O,) annotated classes.
    """
    best = (0.0, 1.0, -np.inf)
    without = -np.inf
    for temperature in TEMPERATURES:
        own = softmax(logits / temperature)[np.arange(len(labels)), labels]
        for share in SHARES:
            likelihood = (1 - share) * own + share * (1 - own) / max(logits.shape[1] - 1, 1)
            total = float(np.log(likelihood + 1e-12).sum())
            if share == 0:
                without = max(without, total)
            if total > best[2]:
                best = (share, temperature, total)
    return best[0], best[1], best[2] - without


def corrected_labels(probability: Floats, labels: Ints, share: float) -> Ints:
    """Return the most probable other class for labels that are more probably wrong than right.

    Args:
        probability: (O, K) of the queries of O objects.
        labels: (O,) annotated classes.
        share: share of wrong labels.
    """
    rows = np.arange(len(labels))
    other = probability.copy()
    other[rows, labels] = 0
    count = max(probability.shape[1] - 1, 1)
    wrong = share / count * other.sum(-1) > (1 - share) * probability[rows, labels]
    return np.where(wrong, other.argmax(-1), labels)


def _relabel_gt(evidence: Evidence, labels: Sequence[Ints]) -> Evidence:
    pairs = zip(evidence.images, labels, strict=True)
    return evidence.changed([replace(image, gt_labels=new) for image, new in pairs])


def check_missing_labels(evidence: Evidence) -> Iterator[Candidate]:
    """Yield the removal of confident detections that overlap no GT from the false positives."""
    ignored: list[Bools] = []
    counts: list[int] = []
    expected = 0.0
    for image in evidence.images:
        probability = image.class_probabilities(evidence.rule).max(-1)
        sure = image.class_scores(evidence.rule).max(-1) >= CONFIDENT * 0.9
        highest = image.iou[-1].max(1, initial=0)
        unannotated = sure & (highest < BACKGROUND_IOU)
        expected += float((1 - probability[sure]).sum())
        first = unannotated & ~suppressed(image, evidence.rule)
        ignored.append(image.ignored | first)
        counts.append(int(np.count_nonzero(first)))
    if sum(counts) > max(EXCESS * expected, 0.5):
        yield Candidate(
            "missing-labels",
            edit=partial(_ignore, ignored=ignored),
            evidence={
                "objects": sum(counts),
                "expected": expected,
                "images": evidence.images_with_most(counts),
            },
        )


def _ignore(evidence: Evidence, ignored: Sequence[Bools]) -> Evidence:
    pairs = zip(evidence.images, ignored, strict=True)
    return evidence.changed([replace(image, ignored=one) for image, one in pairs])
