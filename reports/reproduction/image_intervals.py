"""Confidence intervals over images of the differences between trainings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reports.reproduction.results import SummaryMetric
from reports.reproduction.seed_statistics import CONFIDENCE_LEVEL

ResampledRuns = Mapping[tuple[str, int, str], Mapping[str, list[float | None]]]
"""(training, seed, part) -> name of a metric -> its values for the same samples of images."""


@dataclass(frozen=True, slots=True)
class ImageInterval:
    """Ends of the interval over images of a difference, averaged over seeds."""

    low: float
    high: float

    def confirms(self, difference: float) -> bool:
        """Return whether the interval lies on the same side of 0 as the difference."""
        return self.low > 0 if difference > 0 else self.high < 0


def image_interval(
    resampled: ResampledRuns,
    a: tuple[str, str],
    b: tuple[str, str],
    metric: SummaryMetric,
    seeds: Sequence[int],
) -> ImageInterval | None:
    """Return the 95% interval of b - a over images, from the percentiles of the samples.

    The models stay the same: the interval has the variation of the images, not that of trainings.

    Args:
        resampled: values of all runs.
        a, b: training and part.
        metric: a metric of `RESAMPLED_METRICS`.
        seeds: the difference is the mean over these.

    Returns:
        The interval, or None if a seed lacks values or no sample has a value.
    """
    differences = []
    for seed in seeds:
        of_a, of_b = (
            resampled.get((name, seed, part), {}).get(metric.name) for name, part in (a, b)
        )
        if not of_a or not of_b or len(of_a) != len(of_b):
            return None
        differences.append(np.array(of_b, dtype=float) - np.array(of_a, dtype=float))
    means = np.mean(differences, axis=0)
    if np.isnan(means).all():
        return None
    outside = 50 * (1 - CONFIDENCE_LEVEL)
    low, high = np.nanpercentile(means, [outside, 100 - outside])
    return ImageInterval(float(low), float(high))
