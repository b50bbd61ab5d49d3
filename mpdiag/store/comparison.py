"""Two runs over the same images: paired differences, and what moved most."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mpdiag.errors import RunError
from mpdiag.store.bootstrap import RESAMPLES, interval, ratio
from mpdiag.store.groups import ImageSums, image_sums
from mpdiag.store.run import Run

Floats = npt.NDArray[np.float64]
TOP = 10
_DESCRIBED = ("architecture", "method", "part", "settings")  # of run.json


@dataclass(frozen=True, slots=True)
class Comparison:
    """How run b differs from run a; values are fractions, differences are b - a.

    Attributes:
        a, b: names of the runs.
        images: how many both have.
        settings: what run.json tells otherwise of b than of a (architecture, method, part and
            settings, which have dotted names): the values of a and b, None where one has none.
        layers: one row for each metric (miou_l, util) and layer: `a`, `b`, `difference`, and `low`
            and `high`, the ends of its 95% interval over resampled images, the same for both runs.
        scores: AP, PQ or mIoU of the last layer, where both runs have it: `score`, `a`, `b`,
            `difference`. No interval: such a score is no mean over images.
        moved_images: for each metric, the images whose own value, over all layers at once, differs
            most: `metric`, `image_id`, `file_name`, `a`, `b`, `difference`.
        moved_classes: likewise for classes: `metric`, `class`, `a`, `b`, `difference`.
    """

    a: str
    b: str
    images: int
    settings: dict[str, tuple[Any, Any]]
    layers: pd.DataFrame
    scores: pd.DataFrame
    moved_images: pd.DataFrame
    moved_classes: pd.DataFrame


def compare(
    a: Run, b: Run, *, top: int = TOP, seed: int = 0, resamples: int = RESAMPLES
) -> Comparison:
    """Compare two runs image by image.

    Args:
        a, b: runs over the same images and GT with as many layers.
        top: how many of the images and classes that moved most.
        seed, resamples: of the bootstrap.

    Raises:
        RunError: they can't be compared: schema versions, layers, images or GT differ.
    """
    files = _check(a, b)
    terms = [_terms(sums["all"]) if (sums := image_sums(run)) else {} for run in (a, b)]
    tables = [
        _differences(metric, terms[0][metric], terms[1][metric], seed, resamples)
        for metric in terms[0]
    ]
    own = [{metric: _over_layers(x) for metric, x in one.items()} for one in terms]
    return Comparison(
        a.name,
        b.name,
        len(files),
        _unlike(a, b),
        pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(),
        _scores(a, b),
        _moved(files, own[0], own[1], top),
        _moved_classes(a, b, top),
    )


def _unlike(a: Run, b: Run) -> dict[str, tuple[Any, Any]]:
    of_a, of_b = (dict(_dotted({key: run.header.get(key) for key in _DESCRIBED})) for run in (a, b))
    pairs = {key: (of_a.get(key), of_b.get(key)) for key in of_a | of_b}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


Terms = tuple[Floats, Floats]


def _terms(sums: ImageSums) -> dict[str, Terms]:
    """Numerator and denominator of each metric, (I, L + 1): their sums over images divide."""
    return {"miou_l": (sums.iou, sums.pairs), "util": (sums.util, sums.has_gt)}


def _differences(metric: str, a: Terms, b: Terms, seed: int, resamples: int) -> pd.DataFrame:
    images, depth = a[0].shape

    def difference(times: Floats) -> Floats:
        return ratio(times, *b) - ratio(times, *a)

    once = np.ones((1, images))
    low, high = interval(images, difference, seed=seed, resamples=resamples)
    table = pd.DataFrame(
        {
            "metric": [metric] * depth,
            "layer": range(depth),
            "a": ratio(once, *a)[0],
            "b": ratio(once, *b)[0],
            "difference": difference(once)[0],
            "low": low,
            "high": high,
        }
    )
    return table[table["layer"] > 0] if metric == "miou_l" else table


def _over_layers(terms: Terms) -> Floats:
    """Each image's own value over all its layers, (I,); NaN where it has none."""
    above, below = terms[0].sum(1), terms[1].sum(1)
    own: Floats = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    return own


def _moved(
    labels: pd.DataFrame, a: dict[str, Floats], b: dict[str, Floats], top: int
) -> pd.DataFrame:
    """For each metric the `top` rows of `labels` whose values (one a row) differ most."""
    tables = []
    for metric in a:
        difference = b[metric] - a[metric]
        table = labels.assign(metric=metric, a=a[metric], b=b[metric], difference=difference)
        order = np.argsort(-np.abs(difference), kind="stable")  # NaN comes last
        order = order[: min(top, int((~np.isnan(difference)).sum()))]
        tables.append(table.iloc[order][["metric", *labels, "a", "b", "difference"]])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _moved_classes(a: Run, b: Run, top: int) -> pd.DataFrame:
    of_a, of_b = image_sums(a, "class"), image_sums(b, "class")
    names = [name for name in of_a if name in of_b]

    def values(sums: dict[str, ImageSums]) -> dict[str, Floats]:
        totals = [
            {metric: (x.sum(), y.sum()) for metric, (x, y) in _terms(sums[name]).items()}
            for name in names
        ]
        return {
            metric: np.array([x / y if y else np.nan for x, y in (t[metric] for t in totals)])
            for metric in (totals[0] if totals else ())
        }

    return _moved(pd.DataFrame({"class": names}), values(of_a), values(of_b), top)


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
    """Image ids and file names of both runs, in the order of `image_ids`."""
    versions = a.header["schema_version"], b.header["schema_version"]
    if versions[0] != versions[1]:
        raise RunError(
            f"{a.path} has schema_version {versions[0]} and {b.path} {versions[1]}: analyse the "
            "older one again to compare them"
        )
    if a.num_layers != b.num_layers:
        raise RunError(
            f"{a.path} has {a.num_layers} layers and {b.path} {b.num_layers}: only runs with as "
            "many layers can be compared"
        )
    sql = "SELECT image_id, file_name, num_gt FROM images ORDER BY image_id"
    images = a.query(sql), b.query(sql)
    keys = [set(zip(x["image_id"], x["file_name"], strict=True)) for x in images]
    if keys[0] != keys[1]:
        raise RunError(
            f"{a.path} and {b.path} are over different images, of which {len(keys[0] & keys[1])} "
            f"are in both ({len(keys[0])} and {len(keys[1])} in all): analyse both over the same"
        )
    other = images[0]["num_gt"] != images[1]["num_gt"]
    if other.any():
        name = images[0]["file_name"].iloc[int(other.to_numpy().argmax())]
        raise RunError(
            f"{a.path} and {b.path} have different GT on {name}: analyse both with the same "
            "annotations and task"
        )
    return images[0][["image_id", "file_name"]]
