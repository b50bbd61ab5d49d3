"""Class confusion, no-object bias, scores of small objects, dead queries, ranking, class head."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from scipy.optimize import linear_sum_assignment

from mpdiag.diagnosis.candidate import Candidate
from mpdiag.diagnosis.evidence import Evidence, Float32, Values
from mpdiag.diagnosis.probe import (
    NO_OBJECT_WEIGHT,
    Features,
    assigned_gt,
    fit_class_head,
    fit_objectness,
    target_labels,
)
from mpdiag.metrics.image_scores import Floats
from mpdiag.metrics.weighted_ap import Ints

SHIFTS = np.arange(-12, 12.5, 0.5)
SIZES = (0.25, 0.5, 0.75)  # quantiles of the areas of masks that match a GT
MIN_BIAS = 1.0
DEAD_PROBABILITY = 0.01
MIN_CONFUSED = 3


def check_classes(evidence: Evidence) -> Iterator[Candidate]:
    """Yield the permutation of the classes that agrees best with the GT."""
    confusion = class_confusion(evidence)
    permutation = best_permutation(confusion)
    moved = np.flatnonzero(permutation != np.arange(len(permutation)))
    if len(moved):
        pairs = [[int(label), int(permutation[label])] for label in moved]
        yield Candidate(
            "class-confusion",
            edit=partial(_permute_classes, permutation=permutation),
            classes=tuple(map(int, moved)),
            evidence={
                "predicted_and_annotated": pairs,
                "objects": int(confusion[moved, permutation[moved]].sum()),
            },
        )


def class_confusion(evidence: Evidence) -> Floats:
    """Return the (K, K) numbers of objects by predicted and annotated class.

    Only GT with a query of IoU >= 0.5 count, with the class of that query.
    """
    counts = np.zeros((evidence.num_classes, evidence.num_classes))
    for image in evidence.images:
        gt = assigned_gt(image)
        found = np.flatnonzero(gt >= 0)
        predicted = image.class_logits[-1, found, :-1].argmax(-1)
        np.add.at(counts, (predicted, image.gt_labels[gt[found]]), 1)
    return counts


def best_permutation(confusion: Floats) -> Ints:
    """Return the class that each predicted class stands for, by optimal assignment.

    A cycle of classes is kept only if it explains more than twice as many objects as no change.
    """
    # The diagonal wins ties, so that classes without objects stay.
    rows, columns = linear_sum_assignment(-(confusion + 1e-6 * np.eye(len(confusion))))
    permutation = np.arange(len(confusion))
    for cycle in _cycles(columns[np.argsort(rows)]):
        explained = confusion[cycle, columns[cycle]].sum()
        if explained > max(2 * confusion[cycle, cycle].sum(), MIN_CONFUSED):
            permutation[cycle] = columns[cycle]
    return permutation


def _cycles(permutation: Ints) -> Iterator[list[int]]:
    seen: set[int] = set()
    for start in range(len(permutation)):
        cycle = []
        at = start
        while at not in seen:
            seen.add(at)
            cycle.append(at)
            at = int(permutation[at])
        if len(cycle) > 1:
            yield cycle


def _permute_classes(evidence: Evidence, permutation: Ints) -> Evidence:
    images = []
    for image in evidence.images:
        logits = image.class_logits[-1].copy()
        logits[:, permutation] = image.class_logits[-1][:, : len(permutation)]
        images.append(image.with_logits(logits))
    return evidence.changed(images)


def check_no_object_bias(evidence: Evidence) -> Iterator[Candidate]:
    """Yield the shift of the no-object logit with the highest likelihood of the GT.

    No-object has the weight of training. The shift with the highest AP would be another one if
    scores are random: a low bias of no-object then removes their influence.
    """
    best = float(SHIFTS[_shift_losses(evidence).sum((1, 2)).argmin()])
    if abs(best) >= MIN_BIAS:
        yield Candidate(
            "no-object-bias",
            edit=partial(_shift_no_object, amount=best),
            evidence={"shift": best},
        )


def check_small_objects(evidence: Evidence) -> Iterator[Candidate]:
    """Yield the shift of the no-object logit of small masks with the highest likelihood.

    Which masks are small is chosen by the likelihood as well.
    """
    area = np.stack([image.area[-1] for image in evidence.images])
    found = np.stack([assigned_gt(image) >= 0 for image in evidence.images])
    if not found.any():
        return
    losses = _shift_losses(evidence)
    unchanged = losses[SHIFTS == 0][0]
    limits = np.quantile(area[found], SIZES)
    gains = np.array([(unchanged - losses)[:, area < limit].sum(1) for limit in limits])
    place, shift = np.unravel_index(gains.argmax(), gains.shape)
    limit, amount = float(limits[place]), float(SHIFTS[shift])
    if amount <= -MIN_BIAS:
        objects = [int((image.gt_area < limit * image.pixels).sum()) for image in evidence.images]
        yield Candidate(
            "small-objects",
            edit=partial(_shift_no_object, amount=amount, below=limit),
            evidence={
                "smaller_than_share_of_image": limit,
                "shift": amount,
                "objects": sum(objects),
                "images": evidence.images_with_most(objects),
            },
        )


def _shift_losses(evidence: Evidence) -> Floats:
    """Return the cross-entropy (shifts, I, N) of each query under `SHIFTS` of no-object."""
    logits = np.stack([image.class_logits[-1] for image in evidence.images]).astype(np.float64)
    classes = evidence.num_classes
    targets = np.stack([target_labels(image, classes) for image in evidence.images])
    weight = np.where(targets == classes, NO_OBJECT_WEIGHT, 1.0)
    own = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    shifts = SHIFTS[:, None, None]
    total = np.logaddexp(log_sum_exp(logits[..., :-1]), logits[..., -1] + shifts)
    losses: Floats = weight * (total - own - shifts * (targets == classes))
    return losses


def _shift_no_object(evidence: Evidence, amount: float, below: float = np.inf) -> Evidence:
    """Add `amount` to the no-object logit of masks whose share of the image is `below` a limit."""
    images = []
    for image in evidence.images:
        logits = image.class_logits[-1].copy()
        logits[image.area[-1] < below, -1] += amount
        images.append(image.with_logits(logits))
    return evidence.changed(images)


def check_heads(evidence: Evidence) -> Iterator[Candidate]:
    """Yield what another class head gains: for dead queries, for scores, and in all."""
    features = Features.read(evidence)
    if features is None:
        return
    every = range(evidence.num_queries)
    dead = dead_queries(evidence)
    live = [query for query in every if query not in dead]
    head = features.model_head(live) if len(dead) and live else None
    if head is not None:
        yield Candidate(
            "dead-queries",
            edit=partial(_replace_logits, logits=features.apply(head), queries=dead.tolist()),
            queries=tuple(map(int, dead)),
            evidence={"dead": len(dead), "of": evidence.num_queries},
        )
    odds = fit_objectness(evidence, features)
    own = [image.class_logits[-1] for image in evidence.images]
    for cause, logits in (("ranking", own), ("class-head", fit_class_head(features))):
        new = with_objectness(logits, odds)
        yield Candidate(cause, edit=partial(_replace_logits, logits=new, queries=list(every)))


def dead_queries(evidence: Evidence) -> Ints:
    """Return the queries whose probability of an object is below 1% in every image."""
    highest = np.max([1 - image.probabilities[:, -1] for image in evidence.images], axis=0)
    return np.flatnonzero(highest < DEAD_PROBABILITY)


def _replace_logits(
    evidence: Evidence, logits: Sequence[Float32], queries: Sequence[int]
) -> Evidence:
    images = []
    for image, new in zip(evidence.images, logits, strict=True):
        changed = image.class_logits[-1].copy()
        changed[queries] = new[queries]
        images.append(image.with_logits(changed))
    return evidence.changed(images)


def with_objectness(logits: Sequence[Float32], odds: Sequence[Floats]) -> list[Float32]:
    """Return logits (N, K + 1) of each image with other log odds (N,) of an object.

    The ratios of the classes stay.
    """
    changed = []
    for own, new in zip(logits, odds, strict=True):
        classes = own[:, :-1]
        no_object = log_sum_exp(classes) - new.astype(np.float32)
        changed.append(np.concatenate([classes, no_object[:, None]], axis=1))
    return changed


def log_sum_exp(values: Values) -> Values:
    """Return log(sum(exp)) over the last axis."""
    highest = values.max(-1)
    total: Values = highest + np.log(np.exp(values - highest[..., None]).sum(-1))
    return total
