"""Means over seeds, paired differences, and the rule by which a claim holds."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit

BySeed = Mapping[int, float | None]
Verdict = Literal["yes", "no", "undecided", "unknown"]

LEVEL = 0.95

DECISION_RULE = (
    "A claim compares two trainings seed by seed: d is the mean of the differences, ± the half "
    "width of its 95% interval by Student's t over the seeds. Yes: the interval lies on the "
    "claim's side of 0. No: it lies on the other side. Undecided: it holds 0, or there is one seed "
    "alone. Unknown: a run is missing."
)


@dataclass(frozen=True, slots=True)
class SeedStatistics:
    """Mean over seeds and their standard deviation (n - 1); the latter None of one seed."""

    mean: float
    deviation: float | None
    count: int


def seed_statistics(values: Iterable[float | None]) -> SeedStatistics | None:
    """Of all that is known; None where nothing is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean = math.fsum(known) / len(known)
    if len(known) == 1:
        return SeedStatistics(mean, None, 1)
    squares = math.fsum((value - mean) ** 2 for value in known)
    return SeedStatistics(mean, math.sqrt(squares / (len(known) - 1)), len(known))


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean of b - a over seeds, and half of its interval; None of one seed."""

    mean: float
    half: float | None
    count: int

    def verdict(self, sign: int) -> Verdict:
        """Whether b is above a (sign 1) or below it (-1)."""
        if self.half is None or abs(self.mean) <= self.half:
            return "undecided"
        return "yes" if self.mean * sign > 0 else "no"


def paired_difference(a: BySeed, b: BySeed) -> PairedDifference | None:
    """b - a over the seeds that both have a value of; None where there is no such seed."""
    pairs = [(a[seed], b[seed]) for seed in sorted(a.keys() & b.keys())]
    found = seed_statistics([y - x for x, y in pairs if x is not None and y is not None])
    if found is None:
        return None
    half = None
    if found.deviation is not None:
        quantile = float(stdtrit(found.count - 1, 0.5 + LEVEL / 2))
        half = quantile * found.deviation / math.sqrt(found.count)
    return PairedDifference(found.mean, half, found.count)
