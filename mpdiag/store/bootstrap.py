"""Confidence intervals by resampling images."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.95
_AT_ONCE = 64  # resamples that are in memory together


def interval(
    images: int,
    statistic: Callable[[Floats], Floats],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[Floats, Floats]:
    """Ends of the 95% percentile interval of a statistic over resampled images.

    Images are drawn with replacement, as many as there are (Efron and Tibshirani, An Introduction
    to the Bootstrap, 1993, section 13.3). The same seed draws the same images for the same number
    of them, so that the statistics of two runs over the same images are resampled in pairs.

    Args:
        images: how many there are, I.
        statistic: from (R, I), how often each image was drawn, to (R, K) values.

    Returns:
        Lower and upper ends, (K,) each; NaN where a value is NaN in all resamples.
    """
    generator = np.random.default_rng(seed)
    values = []
    for start in range(0, resamples, _AT_ONCE):
        count = min(_AT_ONCE, resamples - start)
        drawn = generator.integers(0, max(images, 1), (count, images))
        drawn += np.arange(count)[:, None] * images
        times = np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images)
        values.append(statistic(times.astype(np.float64)))
    every = np.concatenate(values)
    ends = np.full((2, every.shape[1]), np.nan)
    known = ~np.isnan(every).all(0)
    outside = 50 * (1 - LEVEL)
    ends[:, known] = np.nanpercentile(every[:, known], [outside, 100 - outside], axis=0)
    return ends[0], ends[1]


def ratio(times: Floats, numerator: Floats, denominator: Floats) -> Floats:
    """(R, K) ratios of sums over images, from (R, I) counts and (I, K) terms; NaN where 0 / 0."""
    below = times @ denominator
    return np.divide(times @ numerator, below, out=np.full_like(below, np.nan), where=below > 0)
