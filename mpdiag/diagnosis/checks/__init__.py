"""The checks of a diagnosis: each yields candidates, whose remedies the search tries."""

from collections.abc import Callable, Iterator

from mpdiag.diagnosis.candidate import Candidate
from mpdiag.diagnosis.checks import annotations, decoder, heads, inputs, layers, query_supply
from mpdiag.diagnosis.checks.mask_head import check_mask_head
from mpdiag.diagnosis.checks.precision import check_precision
from mpdiag.diagnosis.checks.segments import check_segment_threshold
from mpdiag.diagnosis.evidence import Evidence
from mpdiag.diagnosis.trials import Trials

_EVIDENCE_CHECKS: tuple[Callable[[Evidence], Iterator[Candidate]], ...] = (
    layers.check_non_finite,
    layers.check_empty_masks,
    layers.check_switched_masks,
    layers.check_late_layers,
    annotations.check_duplicate_gt,
    heads.check_classes,
    heads.check_no_object_bias,
    heads.check_small_objects,
    heads.check_heads,
    check_segment_threshold,
    query_supply.check_duplicates,
    query_supply.check_too_few_queries,
    annotations.check_wrong_labels,
    annotations.check_missing_labels,
    layers.check_self_attention,
)
_MODEL_CHECKS: tuple[Callable[[Trials], Iterator[Candidate]], ...] = (
    inputs.check_shift,
    inputs.check_attention,
    inputs.check_channels,
    inputs.check_normalisation,
    inputs.check_scale,
    decoder.check_early_layers,
    decoder.check_mask_area,
    check_precision,
    check_mask_head,
)


def evidence_candidates(evidence: Evidence) -> Iterator[Candidate]:
    """Yield the candidates whose remedies need no new forward pass."""
    for check in _EVIDENCE_CHECKS:
        yield from check(evidence)


def model_candidates(trials: Trials) -> Iterator[Candidate]:
    """Yield the candidates that need forward passes of a changed model."""
    for check in _MODEL_CHECKS:
        yield from check(trials)
