"""Paired differences of two runs over the same images."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mpdiag.errors import RunError
from mpdiag.store.bootstrap import Floats, Terms, interval, ratio, stack, total_ratio
from mpdiag.store.layer_metrics import LAYER_METRICS
from mpdiag.store.run import Run

TOP = 10
_DESCRIBED = ("architecture", "method", "part", "dataset", "settings")  # of run.json
_IMAGES = """
SELECT image_id, file_name, coalesce(string_agg(category_id, ' ' ORDER BY category_id), '') AS gt
FROM images LEFT JOIN targets USING (image_id) GROUP BY image_id, file_name ORDER BY image_id
"""
"""The images, with the categories of their GT, whose order in the annotations may differ."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences b - a of two runs; values are as in summary.json.

    Attributes:
        a, b: names of the runs.
        images: number of images.
        settings: entries of run.json that differ (architecture, method, part, dataset and
            settings, with dotted names): the values of a and b, None if there is none.
        layers: one row for each metric and layer: `metric`, `layer`, `a`, `b`, `difference`, and
            `low` and `high`, the ends of its 95% interval by resampling the images of both runs in
            pairs. Metrics are those of `LAYER_METRICS` that both runs have.
        scores: AP, PQ or mIoU of the last layer that both runs have: `score`, `a`, `b`,
            `difference`. There is no interval, since such a score is not a mean over images.
        moved_images: for each metric, the images whose own value over all layers differs most:
            `metric`, `image_id`, `file_name`, `a`, `b`, `difference`.
        moved_classes: the classes whose mIoU-L and Util differ most: `metric`, `class`, `a`, `b`,
            `difference`. Empty if run.json lists no classes.
    """

    a: str
    b: str
    images: int
    settings: dict[str, tuple[Any, Any]]
    layers: pd.DataFrame
    scores: pd.DataFrame
    moved_images: pd.DataFrame
    moved_classes: pd.DataFrame


def compare(a: Run, b: Run, *, top: int = TOP) -> Comparison:
    """Compare two runs image by image.

    Args:
        a: first run.
        b: second run, over the same images and GT and with the same number of layers.
        top: number of images and classes in `moved_images` and `moved_classes`.

    Raises:
        RunError: layers, images or their GT differ.
    """
    files = _check(a, b)
    terms = a.image_terms(), b.image_terms()
    own = [
        {name: _over_layers(x) for name, x in t.items() if LAYER_METRICS[name].statistic == "mean"}
        for t in terms
    ]
    return Comparison(
        a.name,
        b.name,
        len(files),
        _different_settings(a, b),
        _layer_differences(*terms),
        _scores(a, b),
        _largest_differences(files, own[0], own[1], top),
        _class_differences(a, b, top),
    )


def _different_settings(a: Run, b: Run) -> dict[str, tuple[Any, Any]]:
    of_a, of_b = (dict(_dotted({key: run.header.get(key) for key in _DESCRIBED})) for run in (a, b))
    pairs = {key: (of_a.get(key), of_b.get(key)) for key in of_a | of_b}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _layer_differences(a: Mapping[str, Terms], b: Mapping[str, Terms]) -> pd.DataFrame:
    images, depth = a["util"][0].shape
    of_a, of_b = stack(a.values()), stack(b.values())

    def difference(draws: Floats) -> Floats:
        return ratio(draws, *of_b) - ratio(draws, *of_a)

    low, high = interval(images, difference)
    values_a, values_b = (np.hstack([total_ratio(*t) for t in x.values()]) for x in (a, b))
    table = pd.DataFrame(
        {
            "metric": np.repeat(list(a), depth),
            "layer": np.tile(np.arange(depth), len(a)),
            "a": values_a,
            "b": values_b,
            "difference": values_b - values_a,
            "low": low,
            "high": high,
        }
    )
    known = table.groupby("metric")["difference"].transform("count") > 0
    first = np.repeat([LAYER_METRICS[name].first_layer for name in a], depth)
    return table[known & (table["layer"] >= first)].reset_index(drop=True)


def _over_layers(terms: Terms) -> Floats:
    """Return each image's value over all its layers, (I,); NaN if it has none."""
    above, below = terms[0].sum(1), terms[1].sum(1)
    own: Floats = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    return own


def _largest_differences(
    labels: pd.DataFrame, a: dict[str, Floats], b: dict[str, Floats], top: int
) -> pd.DataFrame:
    """Return, for each metric, the `top` rows of `labels` whose values differ most."""
    tables = []
    for metric in a:
        difference = b[metric] - a[metric]
        table = labels.assign(metric=metric, a=a[metric], b=b[metric], difference=difference)
        order = np.argsort(-np.abs(difference), kind="stable")  # NaN comes last
        order = order[: min(top, int((~np.isnan(difference)).sum()))]
        tables.append(table.iloc[order][["metric", *labels, "a", "b", "difference"]])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _class_differences(a: Run, b: Run, top: int) -> pd.DataFrame:
    try:
        of_a, of_b = _class_values(a), _class_values(b)
    except RunError:  # run.json lists no classes, which only this table needs
        return pd.DataFrame(columns=["metric", "class", "a", "b", "difference"])
    names = of_a.index[of_a.index.isin(of_b.index)]
    values = [
        {metric: x.loc[names, metric].to_numpy() for metric in ("miou_l", "util")}
        for x in (of_a, of_b)
    ]
    return _largest_differences(pd.DataFrame({"class": names}), values[0], values[1], top)


def _class_values(run: Run) -> pd.DataFrame:
    """Return the metrics of each class over all images and layers."""
    sums = run.image_sums("class").totals().groupby("group", sort=False).sum()
    return sums.assign(miou_l=sums["iou"] / sums["pairs"], util=sums["util"] / sums["images"])


def _scores(a: Run, b: Run) -> pd.DataFrame:
    rows = [
        {"score": name, "a": value, "b": other[name], "difference": other[name] - value}
        for kind in ("ap", "pq", "miou")
        for other in [b.summary.get(kind) or {}]
        for name, value in (a.summary.get(kind) or {}).items()
        if value is not None and other.get(name) is not None
    ]
    return pd.DataFrame(rows, columns=["score", "a", "b", "difference"])


def _check(a: Run, b: Run) -> pd.DataFrame:
    """Return `image_id` and `file_name` of the images, in ascending order of their ids."""
    if a.num_layers != b.num_layers:
        raise RunError(
            f"{a.path} has {a.num_layers} layers and {b.path} has {b.num_layers} layers; compare "
            "runs with the same number of layers"
        )
    images = a.query(_IMAGES), b.query(_IMAGES)
    keys = [set(zip(x["image_id"], x["file_name"], strict=True)) for x in images]
    if keys[0] != keys[1]:
        raise RunError(
            f"{a.path} and {b.path} have different images: {len(keys[0])} and {len(keys[1])}, of "
            f"which {len(keys[0] & keys[1])} are in both; analyse both over the same images"
        )
    other = images[0]["gt"] != images[1]["gt"]
    if other.any():
        name = images[0]["file_name"].iloc[int(other.to_numpy().argmax())]
        raise RunError(
            f"{a.path} and {b.path} have different GT on {name}; analyse both with the same "
            "annotations and task"
        )
    return images[0][["image_id", "file_name"]]
