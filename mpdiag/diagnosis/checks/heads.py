"""Class confusion, no-object bias, dead queries, ranking and class head."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from scipy.optimize import linear_sum_assignment

from mpdiag.diagnosis.candidate import Candidate
from mpdiag.diagnosis.evidence import Evidence, Float32
from mpdiag.diagnosis.matched import Floats, Ints
from mpdiag.diagnosis.probe import assigned_gt, probe_class_head

BIASES = (-8.0, -6.0, -4.0, -3.0, -2.0, -1.0, 1.0, 2.0, 4.0)
DEAD_PROBABILITY = 0.01
MIN_CONFUSED = 3


def check_classes(evidence: Evidence) -> Iterator[Candidate]:
    """Yield the permutation of the classes that agrees best with the GT."""
    confusion = confusion_matrix(evidence)
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


def confusion_matrix(evidence: Evidence) -> Floats:
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
    """Yield the shift of the no-object logit with the highest AP."""
    edits = {bias: partial(_shift_no_object, amount=bias) for bias in BIASES}
    scores = {bias: float(edit(evidence).matched().ap()[0]) for bias, edit in edits.items()}
    best = max(scores, key=lambda bias: scores[bias])
    yield Candidate("no-object-bias", edit=edits[best], evidence={"best_shift": best})


def _shift_no_object(evidence: Evidence, amount: float) -> Evidence:
    images = []
    for image in evidence.images:
        logits = image.class_logits[-1].copy()
        logits[:, -1] += amount
        images.append(image.with_logits(logits))
    return evidence.changed(images)


def check_probe(evidence: Evidence) -> Iterator[Candidate]:
    """Yield what a newly trained class head gains: for dead queries, for scores, and in all."""
    dead = dead_queries(evidence)
    if len(dead):
        head = probe_class_head(evidence, excluded=dead.tolist())
        if head is not None:
            yield Candidate(
                "dead-queries",
                edit=partial(_replace_logits, logits=head.logits, queries=dead.tolist()),
                queries=tuple(map(int, dead)),
                evidence={"dead": len(dead), "of": evidence.num_queries},
            )
    head = probe_class_head(evidence)
    if head is None:
        return
    yield Candidate("ranking", edit=partial(_replace_objectness, logits=head.logits))
    every = list(range(evidence.num_queries))
    yield Candidate("class-head", edit=partial(_replace_logits, logits=head.logits, queries=every))


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


def _replace_objectness(evidence: Evidence, logits: Sequence[Float32]) -> Evidence:
    """Take the probability of an object from `logits`, and keep the ratios of the classes."""
    images = []
    for image, new in zip(evidence.images, logits, strict=True):
        own = image.class_logits[-1].copy()
        odds = log_sum_exp(new[:, :-1]) - new[:, -1]
        own[:, -1] = log_sum_exp(own[:, :-1]) - odds
        images.append(image.with_logits(own))
    return evidence.changed(images)


def log_sum_exp(values: Float32) -> Float32:
    """Return log(sum(exp)) over the last axis."""
    highest = values.max(-1)
    total: Float32 = highest + np.log(np.exp(values - highest[:, None]).sum(-1))
    return total
