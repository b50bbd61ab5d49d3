"""Confidence intervals by resampling images."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Terms = tuple[Floats, Floats]
"""Numerator and denominator of each of I images, (I, K) each; the value is the ratio of sums."""

RESAMPLES = 1000
LEVEL = 0.95
_BATCH = 64  # resamples in memory at a time


def interval(
    images: int, statistic: Callable[[Floats], Floats], resamples: int = RESAMPLES
) -> tuple[Floats, Floats]:
    """Return the ends of the 95% percentile interval of a statistic over resampled images.

    Images are drawn with replacement (Efron and Tibshirani, An Introduction to the Bootstrap,
    1993, section 13.3). The draws depend on the number of images alone, so two runs over the same
    images are resampled in pairs.

    Args:
        images: number of images I.
        statistic: function from (R, I), how often each image was drawn, to (R, K) values.

    Returns:
        Lower and upper ends, (K,) each; NaN if a value is NaN in all resamples.
    """
    values = [statistic(draws) for draws in draw_images(images, resamples)]
    every = np.concatenate(values)
    ends = np.full((2, every.shape[1]), np.nan)
    known = ~np.isnan(every).all(0)
    outside = 50 * (1 - LEVEL)
    ends[:, known] = np.nanpercentile(every[:, known], [outside, 100 - outside], axis=0)
    return ends[0], ends[1]


def draw_images(images: int, resamples: int = RESAMPLES) -> Iterator[Floats]:
    """Yield how often each image is drawn, (R, I), for a few samples at a time."""
    generator = np.random.default_rng(0)
    for start in range(0, resamples, _BATCH):
        count = min(_BATCH, resamples - start)
        drawn = generator.integers(0, max(images, 1), (count, images))
        drawn += np.arange(count)[:, None] * images
        draws = np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images)
        yield draws.astype(np.float64)


def ratio(draws: Floats, numerator: Floats, denominator: Floats) -> Floats:
    """Return (R, K) ratios of sums over images, from (R, I) draws and (I, K) terms.

    A ratio is NaN where its denominator is 0.
    """
    below = draws @ denominator
    return np.divide(draws @ numerator, below, out=np.full_like(below, np.nan), where=below > 0)


def stack(terms: Iterable[Terms]) -> Terms:
    """Return the terms of several metrics as one, (I, sum of their K) each."""
    numerators, denominators = zip(*terms, strict=True)
    return np.hstack(numerators), np.hstack(denominators)


def total_ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Return the (K,) ratios of sums over all images; NaN where a denominator is 0."""
    values: Floats = ratio(np.ones((1, len(numerator))), numerator, denominator)[0]
    return values


def image_spread(numerator: Floats, denominator: Floats) -> Floats:
    """Return the (K,) standard deviations of the images' own ratios; NaN below two images."""
    known = denominator > 0
    own = np.where(known, numerator / np.where(known, denominator, 1), 0.0)
    count = known.sum(0)
    mean = own.sum(0) / np.maximum(count, 1)
    squares = np.where(known, (own - mean) ** 2, 0.0).sum(0)
    return np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)
