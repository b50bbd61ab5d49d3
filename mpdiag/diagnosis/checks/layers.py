"""Late layers, non-finite predictions, empty masks, switched masks and self-attention."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from scipy.optimize import linear_sum_assignment

from mpdiag.diagnosis.candidate import Candidate
from mpdiag.diagnosis.checks.query_supply import suppress, suppressed
from mpdiag.diagnosis.evidence import Evidence, ImageEvidence
from mpdiag.metrics.weighted_ap import Bools, Ints

NO_SELF_ATTENTION = 1e-6
MIN_SWITCHED_GAIN = 0.1


def check_late_layers(evidence: Evidence) -> Iterator[Candidate]:
    """Yield the earlier layer with the highest score."""
    scores = [evidence.score(layer) for layer in range(evidence.num_layers)]
    if not scores:
        return
    best = int(np.nanargmax(scores))
    yield Candidate(
        "late-layers",
        edit=partial(_stop_at, layer=best),
        layers=tuple(range(best + 1, evidence.num_layers + 1)),
        evidence={"best_layer": best, f"{evidence.scorer.name}_of_layers": scores},
    )


def _stop_at(evidence: Evidence, layer: int, without_duplicates: bool = False) -> Evidence:
    """Return the predictions of an earlier layer, on request without repeated masks."""
    stopped = evidence.changed([image.with_layer(layer) for image in evidence.images])
    if not without_duplicates:
        return stopped
    return suppress(stopped, [suppressed(image, evidence.rule) for image in stopped.images])


def check_non_finite(evidence: Evidence) -> Iterator[Candidate]:
    """Yield the use of the last finite layer of queries that are not finite in the last."""
    bad = [np.isnan(image.area) for image in evidence.images]
    queries = np.flatnonzero(np.any([x[-1] for x in bad], axis=0))
    if len(queries):
        layers = np.flatnonzero(np.any(bad, axis=(0, 2)))
        yield Candidate(
            "non-finite",
            edit=partial(_use_last_layer, usable=_is_finite, classes=True),
            is_observed=True,
            layers=tuple(evidence.first_layer + int(layer) for layer in layers),
            queries=tuple(map(int, queries)),
            evidence={"predictions": int(sum(x.sum() for x in bad))},
        )


def check_empty_masks(evidence: Evidence) -> Iterator[Candidate]:
    """Yield the use of the last layer in which the mask of a query is not empty."""
    empty = np.array([image.area == 0 for image in evidence.images])
    vanished = empty[:, -1] & ~empty.all(1)
    queries = np.flatnonzero(vanished.mean(0) >= 0.5)
    if not vanished.any() or evidence.num_layers == 0:
        return
    share = empty.mean((0, 2))
    yield Candidate(
        "empty-masks",
        edit=partial(_use_last_layer, usable=_is_not_empty, classes=False),
        layers=(int(np.diff(share).argmax()) + 1,),
        queries=tuple(map(int, queries)),
        evidence={"empty_share_of_layers": [float(x) for x in share]},
    )


def _is_finite(image: ImageEvidence) -> Bools:
    finite: Bools = ~np.isnan(image.area)
    return finite


def _is_not_empty(image: ImageEvidence) -> Bools:
    filled: Bools = image.area > 0
    return filled


def _use_last_layer(
    evidence: Evidence, usable: Callable[[ImageEvidence], Bools], *, classes: bool
) -> Evidence:
    """Replace predictions of the last layer that are not usable by those of the last that are."""
    images = []
    for image in evidence.images:
        ok = usable(image)
        last = len(ok) - 1 - ok[::-1].argmax(0)
        replaced = ok.any(0) & ~ok[-1]
        layers, queries = np.where(replaced, last, len(ok) - 1), np.arange(len(replaced))
        changed = image.with_masks_of(layers, queries)
        images.append(
            changed.with_logits(image.class_logits[layers, queries]) if classes else changed
        )
    return evidence.changed(images)


def check_switched_masks(evidence: Evidence) -> Iterator[Candidate]:
    """Yield the permutation of the last layer's masks that agrees best with the layer before."""
    overlap = np.nanmean([image.moved for image in evidence.images], axis=0)
    rows, columns = linear_sum_assignment(-(overlap + 1e-6 * np.eye(len(overlap))))
    order = columns[np.argsort(rows)]
    own, best = np.diag(overlap), overlap[np.arange(len(order)), order]
    moved = np.flatnonzero((order != np.arange(len(order))) & (best > own + MIN_SWITCHED_GAIN))
    if not len(moved):
        return
    yield Candidate(
        "query-switching",
        edit=partial(_reorder_masks, order=order),
        layers=(evidence.num_layers,),
        queries=tuple(map(int, moved)),
        evidence={
            "iou_with_own_mask_before": float(own[moved].mean()),
            "iou_with_mask_of_other_query": float(best[moved].mean()),
        },
    )


def _reorder_masks(evidence: Evidence, order: Ints) -> Evidence:
    last = np.full(len(order), evidence.num_layers)
    return evidence.changed([image.with_masks_of(last, order) for image in evidence.images])


def check_self_attention(evidence: Evidence) -> Iterator[Candidate]:
    """Yield what replaces self-attention best where it has no effect.

    The candidates are the layers before, and suppression of repeated masks, which self-attention
    prevents (Carion et al., End-to-End Object Detection with Transformers, ECCV 2020, section 4.2).
    """
    largest = None if evidence.facts is None else evidence.facts.self_attention
    if largest is None:
        return
    without = np.flatnonzero(largest < NO_SELF_ATTENTION)  # not where it is NaN
    if not len(without) or without[0] >= evidence.num_layers:
        return
    before = range(int(without[0]) + 1)
    options = [(layer, alone) for layer in before for alone in (False, True)]
    edits = {
        (layer, alone): partial(_stop_at, layer=layer, without_duplicates=alone)
        for layer, alone in (*options, (evidence.num_layers, True))
    }
    scores = {key: edit(evidence).score() for key, edit in edits.items()}
    best = max(scores, key=lambda key: scores[key])
    yield Candidate(
        "self-attention",
        edit=edits[best],
        layers=tuple(int(layer) + 1 for layer in without),
        evidence={"largest_output": [float(x) if np.isfinite(x) else None for x in largest]},
    )
