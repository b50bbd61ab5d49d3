"""Tables of a run's layers beside Table 1: masks, matches, cost, and transitions; texts only."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mpdiag.store import Run
from mpdiag.store.consistency import COLUMNS
from mpdiag.store.transitions import TRANSITIONS
from reports.formatting import NO_VALUE

_SCORES = {"ap": "AP", "pq": "PQ", "miou": "mIoU"}
_INTERVALS = {"miou_l": "mIoU-L: half of its interval", "util": "Util: half of its interval"}


@dataclass(frozen=True, slots=True)
class LayerTable:
    """One table: a title, a note below it, and rows of a label and a cell for each layer 0..L."""

    title: str
    note: str
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def layer_tables(run: Run) -> tuple[LayerTable, ...]:
    """The tables that this run's rows can fill."""
    if not run.num_layers:
        return ()
    tables = [_masks_and_matches(run)]
    if run.header["schema_version"] >= 2:
        tables += _transitions(run)
    return tuple(tables)


def _masks_and_matches(run: Run) -> LayerTable:
    layers = run.consistency()
    rows = [
        (column.label, _cells(layers[name], percent=column.fraction))
        for name, column in COLUMNS.items()
        if layers[name].notna().any() and (name != "non_finite" or layers[name].any())
    ]
    scored = pd.DataFrame(run.summary.get("layer_scores") or [])
    rows += [(f"{label} of the layer", _cells(scored[key]))
             for key, label in _SCORES.items() if key in scored]  # fmt: skip
    intervals = run.layers()
    rows += [
        (label, _cells((intervals[f"{key}_high"] - intervals[f"{key}_low"]) / 2))
        for key, label in _INTERVALS.items()
    ]
    return LayerTable(
        "Masks and matches",
        "Percent, but for matches changed per image and the margin (in units of the cost). "
        "Intervals are of 95%, over resampled images.",
        tuple(rows),
    )


def _transitions(run: Run) -> list[LayerTable]:
    found, used = run.transitions(), run.thresholds
    by_class = {kind: found[found["transition"] == kind] for kind in TRANSITIONS}
    first = [math.nan]  # there is no transition into layer 0
    labels = {kind: f"{kind}: {meaning}" for kind, meaning in TRANSITIONS.items()}
    shares = [(labels[k], _cells([*first, *rows["share"]])) for k, rows in by_class.items()]
    shares.append(("kept, both empty", _cells([*first, *_empty_share(found)])))
    gains = [
        (kind, _cells([*first, *rows["util_gain"]], signed=True)) for kind, rows in by_class.items()
    ]
    return [
        LayerTable(
            "Transitions",
            "Percent of the layer's transitions. Kept from an IoU of "
            f"{used.kept_iou} on, on an object from {used.object_iou} on, several objects from "
            f"{used.several} of a second one on.",
            tuple(shares),
        ),
        LayerTable(
            "Util gained if transitions were undone",
            "Percentage points of Util, had the queries of the class kept the match of the layer "
            "before. Below 0 the transition is for the better.",
            tuple(gains),
        ),
    ]


def _empty_share(found: pd.DataFrame) -> list[float]:
    of_layer = found.groupby("layer")[["empty", "count"]].sum()
    shares: list[float] = (of_layer["empty"] / of_layer["count"]).tolist()
    return shares


def _cells(values: Iterable[Any], *, percent: bool = True, signed: bool = False) -> tuple[str, ...]:
    """A text for each layer; empty where layer 0 has no value, since nothing comes before it."""
    texts = [_cell(float(value), percent, signed) for value in values]
    return ("" if texts[0] == NO_VALUE else texts[0], *texts[1:])


def _cell(value: float, percent: bool, signed: bool) -> str:
    if math.isnan(value):
        return NO_VALUE
    if not percent:
        return f"{value:.2f}"
    text = f"{100 * value:+z.1f}" if signed else f"{100 * value:.1f}"
    return "0.0" if text in ("-0.0", "+0.0") else text
