"""mIoU-L^i and Util^i by group, with the spread over images and a confidence interval."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from mpdiag.store.bootstrap import RESAMPLES, interval, ratio
from mpdiag.store.groups import Assignment, By, ImageSums, image_sums

if TYPE_CHECKING:
    from mpdiag.store.run import Run

Floats = npt.NDArray[np.float64]


def layers(
    run: "Run",
    by: By = "all",
    assignment: Assignment = "bipartite",
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """The paper's metrics of each group and layer 0..L, as fractions.

    Columns: `group`, `layer`; `miou_l` over `pairs` pairs that are not both empty (nothing in layer
    0); `util`, averaged over the `images` that have GT of the group. Each with `_low` and `_high`,
    the ends of a 95% interval by resampling images, and `_spread`, the standard deviation of the
    images' own values. NaN where there is nothing to average. With hard assignment Util is 1 by
    construction.

    Args:
        run, by, assignment: see `mpdiag.store.groups.image_sums`, with its errors.
        seed, resamples: of the bootstrap.
    """
    tables = [
        _of_group(name, sums, seed, resamples)
        for name, sums in image_sums(run, by, assignment).items()
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _of_group(name: str, sums: ImageSums, seed: int, resamples: int) -> pd.DataFrame:
    images, depth = sums.iou.shape
    columns: dict[str, object] = {"group": [name] * depth, "layer": range(depth)}
    columns |= {"pairs": sums.pairs.sum(0).astype(int), "images": sums.has_gt.sum(0).astype(int)}
    for metric, above, below in (
        ("miou_l", sums.iou, sums.pairs),
        ("util", sums.util, sums.has_gt),
    ):
        value = ratio(np.ones((1, images)), above, below)[0]
        statistic = partial(ratio, numerator=above, denominator=below)
        low, high = interval(images, statistic, seed=seed, resamples=resamples)
        columns |= {
            metric: value,
            f"{metric}_low": low,
            f"{metric}_high": high,
            f"{metric}_spread": _spread(above, below),
        }
    return pd.DataFrame(columns)


def _spread(above: Floats, below: Floats) -> Floats:
    """Standard deviation over images of above / below, (I, K) each -> (K,); NaN below 2 images."""
    known = below > 0
    own = np.where(known, above / np.where(known, below, 1), 0.0)
    count = known.sum(0)
    safe = np.maximum(count, 1)
    mean = own.sum(0) / safe
    squares = np.where(known, (own - mean) ** 2, 0.0).sum(0)
    return np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)
