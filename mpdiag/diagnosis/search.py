"""Rank causes by greedy forward selection of remedies.

In each round, the remedy with the highest gain in the score is applied, and the gains of the others
are measured again on the result. A cause that explains the same errors as one before therefore
gains nothing. Of remedies with nearly the same gain, the most specific cause wins. A cause that is
observed, as NaN is, comes first whatever its remedy gains.

Remedies that need a changed model are tried in the first round, to save forward passes. Later
rounds try those again that gained enough, but for edits that hold predictions of other passes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mpdiag.diagnosis.candidate import Candidate
from mpdiag.diagnosis.changes import Changes, merge
from mpdiag.diagnosis.checks import evidence_candidates, model_candidates
from mpdiag.diagnosis.class_measures import class_measures
from mpdiag.diagnosis.collect import NO_CHANGES, Collector
from mpdiag.diagnosis.evidence import Evidence
from mpdiag.diagnosis.layer_scores import layer_scores, recall_of_layers
from mpdiag.diagnosis.trials import Trials
from mpdiag.metrics.image_scores import Floats, ImageScores
from mpdiag.store.causes import SPECIFICITY
from mpdiag.store.diagnosis import Diagnosis, Finding

SIMILAR = 0.8  # of the highest gain: a more specific cause with such a gain wins
ROUNDS = 6
RESAMPLES = 200
NOT_COMBINED = ("channel-order", "mask-head")
"""Causes whose edits hold predictions of other forward passes: no further changes to the model."""

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class State:
    """The evidence after the remedies that were chosen so far.

    Attributes:
        raw: evidence under `changes`, before `causes` are remedied.
        evidence: evidence after all remedies.
        changes: changes to the model.
        causes: causes whose remedies are edits, in the order of their choice.
    """

    raw: Evidence
    evidence: Evidence
    changes: Changes = NO_CHANGES
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate with the state after its remedy and what it gains."""

    candidate: Candidate
    state: State
    scored: ImageScores
    gain: float


class Search:
    """Searches what lowers the score in the evidence, and with a collector in the model."""

    def __init__(
        self, evidence: Evidence, threshold: float, collector: Collector | None = None
    ) -> None:
        self.threshold = threshold
        self.collector = collector
        self.gains: dict[str, float] = {}  # of changes, see `Trials`
        self.start = State(evidence, evidence)
        self._model_candidates: Sequence[Candidate] | None = None

    def run(self) -> Diagnosis:
        """Return the ranked findings."""
        state, scored = self.start, self.start.evidence.scored()
        first = float(scored.values()[0])
        findings: list[Finding] = []
        while len(findings) < ROUNDS:
            chosen = self._choose(state, scored, {finding.cause for finding in findings})
            if chosen is None:
                break
            tried, finding = chosen
            findings.append(finding)
            if finding.cause in NOT_COMBINED and tried.candidate.edit is not None:
                self._model_candidates = ()
            if tried.gain >= 0:  # the remedy of an observed cause may lower the score
                state, scored = tried.state, tried.scored
        evidence = self.start.evidence
        return Diagnosis(
            first,
            findings,
            self.threshold,
            len(evidence.images),
            layer_scores(evidence),
            recall_of_layers(evidence) | class_measures(evidence),
            evidence.scorer.name,
        )

    def _choose(
        self, state: State, scored: ImageScores, found: set[str]
    ) -> tuple[Tried, Finding] | None:
        """Return the remedy of this round and its finding; None if there is none."""
        before = float(scored.values()[0])
        tried = [self._try(one, state, before) for one in self._candidates(state, found)]
        if self._model_candidates is None:
            self._model_candidates = [
                one.candidate
                for one in tried
                if one.candidate.changes is not None and one.gain >= self.threshold
            ]
        observed = [one for one in tried if one.candidate.is_observed]
        if observed:
            return observed[0], _finding(observed[0], scored, state.evidence)
        enough = [one for one in tried if one.gain >= self.threshold]
        while enough:
            highest = max(one.gain for one in enough)
            best = min(
                (one for one in enough if one.gain >= SIMILAR * highest),
                key=lambda one: (SPECIFICITY[one.candidate.cause], -one.gain),
            )
            finding = _finding(best, scored, state.evidence)
            if finding.interval[0] > 0:
                return best, finding
            enough.remove(best)
        return None

    def _candidates(self, state: State, found: set[str]) -> list[Candidate]:
        candidates = list(evidence_candidates(state.evidence))
        if self._model_candidates is not None:
            candidates += self._model_candidates
        elif self.collector is not None:
            candidates += model_candidates(Trials(self.collector, state.evidence, self.gains))
        left_out = found | state.evidence.scorer.left_out
        return [one for one in candidates if one.cause not in left_out]

    def _try(self, candidate: Candidate, state: State, before: float) -> Tried:
        if candidate.edit is not None:
            causes = (*state.causes, candidate.cause)
            after = replace(state, evidence=candidate.edit(state.evidence), causes=causes)
        else:
            assert candidate.changes is not None and self.collector is not None
            changes = merge(state.changes, candidate.changes)
            raw = self.collector.collect(changes, every_layer=True)
            raw = replace(raw, facts=state.raw.facts)
            after = State(raw, self._replay(raw, state.causes), changes, state.causes)
        scored = after.evidence.scored()
        return Tried(candidate, after, scored, float(scored.values()[0]) - before)

    def _replay(self, evidence: Evidence, causes: Sequence[str]) -> Evidence:
        """Apply the remedies of causes to new evidence."""
        for cause in causes:
            for candidate in evidence_candidates(evidence):
                if candidate.cause == cause and candidate.edit is not None:
                    evidence = candidate.edit(evidence)
                    break
        return evidence


def _finding(tried: Tried, before: ImageScores, evidence: Evidence) -> Finding:
    gains = resampled(lambda weights: tried.scored.values(weights) - before.values(weights), before)
    known = gains[~np.isnan(gains)]  # a resample without GT has no score
    outside = 50 * (1 - LEVEL)
    low, high = np.percentile(known, [outside, 100 - outside])
    candidate = tried.candidate
    return Finding(
        cause=candidate.cause,
        at_stake=tried.gain,
        interval=(float(low), float(high)),
        layers=candidate.layers,
        classes=candidate.classes,
        queries=candidate.queries,
        evidence={
            "images": evidence.images_with_most(tried.scored.hits - before.hits),
            **candidate.evidence,
        },
        confidence=float((known > 0).mean()),
    )


def resampled(statistic: Callable[[Floats], Floats], scored: ImageScores) -> Floats:
    """Return a statistic for `RESAMPLES` seeded resamples of the images."""
    count = scored.num_images
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return statistic(drawn.astype(np.float64))
