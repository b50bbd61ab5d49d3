"""Copies of queries, and too few queries: what more distinct queries would find.

The number of GT that n queries find is taken to saturate as 1 - exp(-n / t), where t follows from
leaving out half of the queries at random. The additional queries find random missed GT, each with
the IoU, the quality and the class scores of a found GT of similar size.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mpdiag.diagnosis.candidate import Candidate
from mpdiag.diagnosis.checks.heads import dead_queries
from mpdiag.diagnosis.evidence import Evidence, ImageEvidence
from mpdiag.diagnosis.probe import MATCH_IOU, assigned_gt
from mpdiag.metrics.weighted_ap import Bools, Ints
from mpdiag.recording import InstanceRule

ENOUGH_LOAD = 1 / 3
"""GT per live query, up to which there are enough queries."""

COPIED_SHARE = 0.5  # of the images in which a copy repeats another query
HALVES = 8  # random halves of the queries that are left out
NEIGHBOURS = 5  # found GT of similar size, of which one is drawn
NO_OBJECT = 50.0  # logit of a query that predicts nothing

Pair = tuple[int, int]  # image and GT


def check_duplicates(evidence: Evidence) -> Iterator[Candidate]:
    """Yield the suppression of detections whose mask repeats that of a more confident query.

    Queries that repeat others in most images are copies, in whose place others could find GT.
    """
    repeated = [suppressed(image, evidence.rule) for image in evidence.images]
    if not np.any(repeated):
        return
    copies = copied_queries(evidence)
    yield Candidate(
        "duplicate-queries",
        edit=partial(_replace_duplicates, repeated=repeated, copies=copies),
        queries=tuple(map(int, copies)),
        evidence={
            "repeated_share": float(np.mean(repeated)),
            "copies": len(copies),
            "images": evidence.images_with_most(np.sum(repeated, axis=1)),
        },
    )


def suppressed(image: ImageEvidence, rule: InstanceRule) -> Bools:
    """Return which masks (N,) of the last layer repeat that of a query with a higher score."""
    score = image.class_scores(rule).max(-1)
    result = np.zeros(len(score), dtype=np.bool_)
    for place, query in enumerate(order := np.argsort(-score, kind="stable")):
        before = order[:place]
        result[query] = bool(image.repeated[-1, query, before[~result[before]]].any())
    return result


def suppress(evidence: Evidence, repeated: Sequence[Bools]) -> Evidence:
    """Return the evidence without the objects of repeated masks (N,) of each image."""
    images = []
    for image, one in zip(evidence.images, repeated, strict=True):
        logits = image.class_logits[-1].copy()
        logits[one, :-1], logits[one, -1] = 0, NO_OBJECT
        images.append(image.with_logits(logits))
    return evidence.changed(images)


def copied_queries(evidence: Evidence) -> Ints:
    """Return the queries whose masks equal those of a query before them in most images."""
    same = np.mean([image.repeated[-1] for image in evidence.images], axis=0)
    return np.flatnonzero((np.tril(same, -1) >= COPIED_SHARE).any(1))


def _replace_duplicates(evidence: Evidence, repeated: Sequence[Bools], copies: Ints) -> Evidence:
    alone = suppress(evidence, repeated)
    if not len(copies) or evidence.scorer.needs_masks:  # additional queries have no masks
        return alone
    live = np.setdiff1d(np.arange(evidence.num_queries), copies)
    return add_queries(alone, live, evidence.num_queries / max(len(live), 1))


def check_too_few_queries(evidence: Evidence) -> Iterator[Candidate]:
    """Yield what enough queries would find, if there are too few for the GT."""
    unused = np.union1d(dead_queries(evidence), copied_queries(evidence))
    live = np.setdiff1d(np.arange(evidence.num_queries), unused)
    objects = [int((~image.gt_crowd).sum()) for image in evidence.images]
    mean = float(np.mean(objects))
    if len(live) and mean > ENOUGH_LOAD * len(live):
        enough = math.ceil(mean / ENOUGH_LOAD)
        yield Candidate(
            "too-few-queries",
            edit=partial(add_queries, live=live, factor=enough / len(live)),
            evidence={
                "gt_per_image": mean,
                "most_gt_of_an_image": max(objects),
                "live_queries": len(live),
                "images": evidence.images_with_most(objects),
            },
        )


def add_queries(evidence: Evidence, live: Ints, factor: float) -> Evidence:
    """Return the evidence with `factor` times as many queries as the `live` ones.

    The random draws are seeded.
    """
    generator = np.random.default_rng(0)
    assigned = [assigned_gt(image) for image in evidence.images]
    found = [(place, gt) for place, one in enumerate(assigned) for gt in one[one >= 0].tolist()]
    missed = [
        (place, gt)
        for place, (image, one) in enumerate(zip(evidence.images, assigned, strict=True))
        for gt in np.flatnonzero(~image.gt_crowd).tolist()
        if gt not in one
    ]
    more = len(found) * (growth(evidence, live, factor, generator) - 1)
    recall = (1 + _recall_of_few_gt(evidence, assigned)) / 2  # there is no better estimate
    most = recall * (len(found) + len(missed)) - len(found)
    number = max(min(round(more), round(most)), 0)
    if not number:
        return evidence
    chosen = [missed[x] for x in generator.choice(len(missed), number, replace=False)]
    return _find(evidence, chosen, found, assigned, generator)


def _recall_of_few_gt(evidence: Evidence, assigned: Sequence[Ints]) -> float:
    """Return the share of GT that are found in the third of the images with the fewest GT."""
    gt = np.array([np.count_nonzero(~image.gt_crowd) for image in evidence.images])
    found = np.array([np.count_nonzero(one >= 0) for one in assigned])
    few = (gt > 0) & (gt <= np.quantile(gt[gt > 0], 1 / 3))
    return float(found[few].sum() / gt[few].sum())


def growth(evidence: Evidence, live: Ints, factor: float, generator: np.random.Generator) -> float:
    """Return how many times as many GT `factor` times as many queries find."""
    count = len(live)
    every = sum(_found(image, live) for image in evidence.images)
    halves = [generator.choice(live, count // 2, replace=False) for _ in range(HALVES)]
    half = np.mean([sum(_found(image, kept) for image in evidence.images) for kept in halves])
    if count < 2 or not half:
        return 1.0
    # every / half = 1 + x, where x = exp(-n / 2 t).
    rest = min(max(every / float(half) - 1, 0.0), 1 - 1e-6)
    return float((1 - rest ** (2 * factor)) / (1 - rest**2))


def _found(image: ImageEvidence, queries: Ints) -> int:
    iou = np.where(image.gt_crowd, 0, image.iou[-1, queries])
    return int((iou >= MATCH_IOU).any(0).sum())


def _find(
    evidence: Evidence,
    chosen: Sequence[Pair],
    found: Sequence[Pair],
    assigned: Sequence[Ints],
    generator: np.random.Generator,
) -> Evidence:
    """Let new queries find the `chosen` GT as well as others found the GT in `found`."""
    areas = np.array([_relative_area(evidence.images[place], gt) for place, gt in found])
    new = max(np.bincount([place for place, _ in chosen]))
    images = [_append(image, int(new)) for image in evidence.images]
    used = [0] * len(images)
    for place, gt in chosen:
        image = images[place]
        near = np.argsort(np.abs(areas - _relative_area(image, gt)), kind="stable")[:NEIGHBOURS]
        other, donor_gt = found[generator.choice(near)]
        donor = evidence.images[other]
        query = int(np.flatnonzero(assigned[other] == donor_gt)[0])
        row = evidence.num_queries + used[place]
        used[place] += 1
        image.iou[-1, row, gt] = donor.iou[-1, query, donor_gt]
        image.quality[-1, row] = donor.quality[-1, query]
        image.area[-1, row] = donor.area[-1, query]
        logits = donor.class_logits[-1, query].copy()
        labels = [donor.gt_labels[donor_gt], image.gt_labels[gt]]
        logits[labels] = logits[labels[::-1]]
        image.class_logits[-1, row] = logits
    return evidence.changed(images)


def _relative_area(image: ImageEvidence, gt: int) -> float:
    return float(np.log(max(image.gt_area[gt], 1)))


def _append(image: ImageEvidence, count: int) -> ImageEvidence:
    """Return a copy with `count` more queries, which predict nothing."""

    def pad(values: npt.NDArray[Any], axis: int, value: float = 0) -> npt.NDArray[Any]:
        shape = list(values.shape)
        shape[axis] = count
        return np.concatenate([values, np.full(shape, value, values.dtype)], axis)

    logits = pad(image.class_logits, 1)
    logits[:, -count:, -1] = NO_OBJECT
    return replace(
        image,
        class_logits=logits,
        quality=pad(image.quality, 1),
        iou=pad(image.iou, 1),
        area=pad(image.area, 1),
        center=pad(image.center, 1, np.nan),
        features=None,
        ignored=np.append(image.ignored, np.zeros(count, np.bool_)),
        overlap=pad(image.overlap, 1),
        repeated=pad(pad(image.repeated, 1), 2),
        moved=pad(pad(image.moved, 0), 1),
    )
