"""Means over seeds, paired differences, and the rule that decides a hypothesis."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit

BySeed = Mapping[int, float | None]
Verdict = Literal["yes", "no", "undecided", "unknown"]

CONFIDENCE_LEVEL = 0.95

DECISION_RULE = (
    "A hypothesis compares two trainings seed by seed. The value is the mean difference, ± the "
    "half width of its 95% confidence interval (Student's t over the seeds). The range over images "
    "is the 95% interval of this mean for resampled images (bootstrap with the same models). Yes: "
    "both intervals lie on the predicted side of 0. No: both lie on the other side. Undecided: one "
    "contains 0, they lie on different sides, or there is only one seed. Unknown: a run is missing."
)
_POWER = 0.8


@dataclass(frozen=True, slots=True)
class SeedStatistics:
    """Mean over seeds and sample standard deviation (n - 1), None for one seed."""

    mean: float
    deviation: float | None
    count: int


def seed_statistics(values: Iterable[float | None]) -> SeedStatistics | None:
    """Return the statistics of the known values; None if there are none."""
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
    """Mean of b - a over seeds, and half width of its confidence interval, None for one seed."""

    mean: float
    half_width: float | None
    seeds: tuple[int, ...]

    def verdict(self, sign: int) -> Verdict:
        """Return whether b is above a (sign 1) or below it (sign -1)."""
        if self.half_width is None or abs(self.mean) <= self.half_width:
            return "undecided"
        return "yes" if self.mean * sign > 0 else "no"


def resolvable_effect(seeds: int) -> float:
    """Return the smallest difference that this number of seeds resolves, for n > 1.

    The unit is the standard deviation of the differences between seeds. A difference of this size
    has an interval without 0 in about 80% of all experiments.
    """
    quantiles = (stdtrit(seeds - 1, 0.5 + CONFIDENCE_LEVEL / 2), stdtrit(seeds - 1, _POWER))
    return float(sum(quantiles)) / math.sqrt(seeds)


def paired_difference(a: BySeed, b: BySeed) -> PairedDifference | None:
    """Return b - a over the seeds for which both have a value; None if there are none."""
    pairs = {seed: (a[seed], b[seed]) for seed in sorted(a.keys() & b.keys())}
    differences = {seed: y - x for seed, (x, y) in pairs.items() if x is not None and y is not None}
    statistics = seed_statistics(differences.values())
    if statistics is None:
        return None
    half_width = None
    if statistics.deviation is not None:
        quantile = float(stdtrit(statistics.count - 1, 0.5 + CONFIDENCE_LEVEL / 2))
        half_width = quantile * statistics.deviation / math.sqrt(statistics.count)
    return PairedDifference(statistics.mean, half_width, tuple(differences))
