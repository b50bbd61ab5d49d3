"""Wrong classes, missing objects and duplicates in the annotations; duplicate detections."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from mpdiag.diagnosis.candidate import Candidate
from mpdiag.diagnosis.evidence import Evidence, ImageEvidence
from mpdiag.diagnosis.matched import Bools, Ints
from mpdiag.diagnosis.probe import assigned_gt

CONFIDENT = 0.9
SAME_GT_IOU = 0.75
BACKGROUND_IOU = 0.1
DUPLICATE_IOU = 0.75
EXCESS = 2.0
IMAGES_SHOWN = 20


def check_duplicate_gt(evidence: Evidence) -> Iterator[Candidate]:
    """Yield the removal of GT that repeat another one of the image."""
    kept = [_first_of_duplicates(image) for image in evidence.images]
    removed = [int((~one).sum()) for one in kept]
    if sum(removed):
        yield Candidate(
            "overlapping-labels",
            edit=partial(_keep_gt, kept=kept),
            evidence={"objects": sum(removed), "images": _most(evidence, removed)},
        )


def _first_of_duplicates(image: ImageEvidence) -> Bools:
    same = image.gt_overlap >= SAME_GT_IOU
    same &= ~image.gt_crowd[:, None] & ~image.gt_crowd
    kept: Bools = ~np.tril(same, -1).any(1)
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
    """Yield new classes for GT that confident queries contradict.

    A calibrated model contradicts right labels in a share 1 - p of the cases. Only an excess
    over that counts (Northcutt et al., Confident learning, JAIR 2021, count confident
    disagreements as well).
    """
    labels = []
    changed, expected = [], 0.0
    for image in evidence.images:
        new = image.gt_labels.copy()
        gt = assigned_gt(image)
        probability = image.probabilities[:, :-1]
        best, value = probability.argmax(-1), probability.max(-1)
        sure = np.flatnonzero((gt >= 0) & (value >= CONFIDENT))
        expected += float((1 - value[sure]).sum())
        wrong = sure[best[sure] != image.gt_labels[gt[sure]]]
        new[gt[wrong]] = best[wrong]
        labels.append(new)
        changed.append(len(wrong))
    if sum(changed) > EXCESS * expected and sum(changed):
        yield Candidate(
            "label-noise",
            edit=partial(_relabel_gt, labels=labels),
            evidence={
                "objects": sum(changed),
                "expected": expected,
                "images": _most(evidence, changed),
            },
        )


def _relabel_gt(evidence: Evidence, labels: Sequence[Ints]) -> Evidence:
    pairs = zip(evidence.images, labels, strict=True)
    return evidence.changed([replace(image, gt_labels=new) for image, new in pairs])


def check_missing_labels(evidence: Evidence) -> Iterator[Candidate]:
    """Yield the removal of confident detections that overlap no GT from the false positives."""
    ignored, counts, expected = [], [], 0.0
    for image in evidence.images:
        probability = image.probabilities[:, :-1].max(-1)
        score = probability * image.quality[-1]
        sure = score >= CONFIDENT * 0.9
        highest = image.iou[-1].max(1, initial=0)
        unannotated = sure & (highest < BACKGROUND_IOU)
        expected += float((1 - probability[sure]).sum())
        first = unannotated & ~suppressed(image, DUPLICATE_IOU)
        ignored.append(image.ignored | first)
        counts.append(int(first.sum()))
    if sum(counts) > EXCESS * expected and sum(counts):
        yield Candidate(
            "missing-labels",
            edit=partial(_ignore, ignored=ignored),
            evidence={
                "objects": sum(counts),
                "expected": expected,
                "images": _most(evidence, counts),
            },
        )


def _ignore(evidence: Evidence, ignored: Sequence[Bools]) -> Evidence:
    pairs = zip(evidence.images, ignored, strict=True)
    return evidence.changed([replace(image, ignored=one) for image, one in pairs])


def check_duplicates(evidence: Evidence) -> Iterator[Candidate]:
    """Yield the suppression of detections whose mask repeats that of a more confident query."""
    repeated = np.array([suppressed(image, DUPLICATE_IOU) for image in evidence.images])
    if repeated.any():
        queries = np.flatnonzero(repeated.mean(0) >= 0.5)
        yield Candidate(
            "duplicate-queries",
            edit=partial(_suppress, repeated=repeated),
            queries=tuple(map(int, queries)),
            evidence={
                "repeated_masks": float(repeated.mean()),
                "images": _most(evidence, repeated.sum(1).tolist()),
            },
        )


def suppressed(image: ImageEvidence, limit: float) -> Bools:
    """Return which masks (N,) overlap that of a query with a higher score by an IoU >= limit."""
    score = image.probabilities[:, :-1].max(-1) * image.quality[-1]
    result = np.zeros(len(score), dtype=np.bool_)
    for place, query in enumerate(order := np.argsort(-score, kind="stable")):
        before = order[:place]
        result[query] = bool((image.overlap[query, before[~result[before]]] >= limit).any())
    return result


def _suppress(evidence: Evidence, repeated: Sequence[Bools]) -> Evidence:
    images = []
    for image, one in zip(evidence.images, repeated, strict=True):
        logits = image.class_logits[-1].copy()
        logits[one, :-1], logits[one, -1] = 0, 50
        images.append(image.with_logits(logits))
    return evidence.changed(images)


def _most(evidence: Evidence, counts: Sequence[int]) -> list[int]:
    """Return the ids of the images with the highest counts."""
    order = np.argsort(-np.asarray(counts), kind="stable")[:IMAGES_SHOWN]
    return [evidence.images[place].image_id for place in order if counts[place]]
