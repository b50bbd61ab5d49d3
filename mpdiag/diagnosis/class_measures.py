"""Measurements of the classes and the annotations that belong to no cause."""

from typing import Any

import numpy as np

from mpdiag.diagnosis.checks.heads import class_confusion
from mpdiag.diagnosis.evidence import Evidence
from mpdiag.diagnosis.probe import MATCH_IOU

CONFUSIONS_SHOWN = 20


def class_measures(evidence: Evidence) -> dict[str, Any]:
    """Return AP by class, the most frequent confusions of classes, and how many GT overlap.

    `class_ap` has None for classes without GT. `confusions` are lists of predicted class, annotated
    class and number of objects, as in `class_confusion`. `overlapping_gt` is the share of GT that
    overlap another one by an IoU of at least 0.5, None without GT.
    """
    values = evidence.matched().class_values()[0]
    confusion = class_confusion(evidence)
    np.fill_diagonal(confusion, 0)
    order = np.argsort(-confusion, axis=None, kind="stable")[:CONFUSIONS_SHOWN]
    pairs = np.stack(np.unravel_index(order, confusion.shape), axis=1)
    confusions = [
        [int(predicted), int(annotated), int(confusion[predicted, annotated])]
        for predicted, annotated in pairs
        if confusion[predicted, annotated]
    ]
    overlapping = total = 0
    for image in evidence.images:
        own = ~image.gt_crowd
        overlap = image.gt_overlap[np.ix_(own, own)].copy()
        np.fill_diagonal(overlap, 0)
        overlapping += int(np.count_nonzero((overlap >= MATCH_IOU).any(1)))
        total += int(np.count_nonzero(own))
    return {
        "class_ap": [None if np.isnan(value) else float(value) for value in values],
        "confusions": confusions,
        "overlapping_gt": overlapping / total if total else None,
    }
