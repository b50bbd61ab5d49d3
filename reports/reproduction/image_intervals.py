"""Confidence intervals over images of the differences between trainings."""

from collections.abc import Mapping
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

    @property
    def contains_zero(self) -> bool:
        """Whether no difference is plausible."""
        return self.low <= 0 <= self.high


def image_interval(
    resampled: ResampledRuns,
    a: tuple[str, str],
    b: tuple[str, str],
    metric: SummaryMetric,
) -> ImageInterval | None:
    """Return the 95% interval of b - a over images, from the percentiles of the samples.

    The models stay the same: the interval has the variation of the images, not that of trainings.

    Args:
        resampled: values of all runs.
        a, b: training and part.
        metric: a metric of `RESAMPLED_METRICS`.

    Returns:
        The interval, or None if no seed has both runs.
    """
    differences = []
    for name, seed, part in resampled:
        if (name, part) != a:
            continue
        of_a = resampled[name, seed, part].get(metric.name)
        of_b = resampled.get((b[0], seed, b[1]), {}).get(metric.name)
        if of_a and of_b and len(of_a) == len(of_b):
            differences.append(np.array(of_b, dtype=float) - np.array(of_a, dtype=float))
    if not differences:
        return None
    outside = 50 * (1 - CONFIDENCE_LEVEL)
    low, high = np.nanpercentile(np.mean(differences, axis=0), [outside, 100 - outside])
    return ImageInterval(float(low), float(high))
