"""The score threshold of panoptic segments."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from mpdiag.diagnosis.candidate import Candidate
from mpdiag.diagnosis.evidence import Evidence
from mpdiag.diagnosis.scorers import PQScorer

THRESHOLDS = (0.9, 0.6, 0.4, 0.2)  # the nearest to the published 0.8 first, which wins ties


def check_segment_threshold(evidence: Evidence) -> Iterator[Candidate]:
    """Yield the threshold of class probabilities with the highest PQ, if 0.8 is not the best."""
    if not isinstance(evidence.scorer, PQScorer):
        return
    scores = {value: _with_threshold(evidence, value).score() for value in THRESHOLDS}
    best = max(scores, key=scores.__getitem__)
    if scores[best] > evidence.score():
        yield Candidate(
            "segment-threshold",
            edit=partial(_with_threshold, threshold=best),
            evidence={"object_mask_threshold": best},
        )


def _with_threshold(evidence: Evidence, threshold: float) -> Evidence:
    assert isinstance(evidence.scorer, PQScorer)
    return replace(evidence, scorer=replace(evidence.scorer, object_mask_threshold=threshold))
