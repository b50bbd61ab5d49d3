"""Per-layer values of metrics, with confidence intervals and the spread over images."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd

from mpdiag.store.bootstrap import Floats, Terms, image_spread, interval, ratio, stack, total_ratio
from mpdiag.store.groups import GroupSums, ImageSums
from mpdiag.store.layer_metrics import LAYER_METRICS


def with_intervals(terms: Mapping[str, Terms], resamples: int) -> dict[str, Floats]:
    """Return columns NAME, NAME_low, NAME_high and NAME_spread for each metric, (L + 1,) each.

    `_low` and `_high` are the ends of a 95% interval by resampling images; `_spread` is the
    standard deviation of the images' own values.
    """
    if not terms:
        return {}
    above, below = stack(terms.values())
    statistic = partial(ratio, numerator=above, denominator=below)
    ends = interval(len(above), statistic, resamples)
    low, high = (np.split(end, len(terms)) for end in ends)
    columns = {}
    for place, (name, metric) in enumerate(terms.items()):
        columns[name] = total_ratio(*metric)
        columns |= {f"{name}_low": low[place], f"{name}_high": high[place]}
        numerator, denominator = metric
        if LAYER_METRICS[name].statistic == "sum":  # the images' own values are counts, too
            denominator = np.ones_like(denominator)
        columns[f"{name}_spread"] = image_spread(numerator, denominator)
    return columns


def group_layers(groups: Mapping[str, ImageSums], resamples: int) -> pd.DataFrame:
    """Return one row per group and layer 0..L; see `Run.layers`."""
    tables = []
    for name, sums in groups.items():
        depth = sums.iou.shape[1]
        columns = {
            "group": [name] * depth,
            "layer": range(depth),
            "pairs": sums.pairs.sum(0).astype(int),
            "images": sums.has_gt.sum(0).astype(int),
        }
        tables.append(pd.DataFrame(columns | with_intervals(sums.terms, resamples)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def group_values(sums: GroupSums) -> pd.DataFrame:
    """Return the table of `group_layers` without intervals and spread, fast for many groups."""
    totals = sums.totals()
    return pd.DataFrame(
        {
            "group": totals["group"],
            "layer": totals["layer"].astype(int),
            "pairs": totals["pairs"].astype(int),
            "images": totals["images"].astype(int),
            "miou_l": totals["iou"] / totals["pairs"],
            "util": totals["util"] / totals["images"],
        }
    )
