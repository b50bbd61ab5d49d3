"""Tables of a run with one column per layer 0..L: metrics, their intervals, and transitions."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from mpdiag.store import LAYER_METRICS, LayerMetric, Run
from mpdiag.store.diagnosis import SCORES
from mpdiag.store.transitions import TRANSITIONS
from reports.document import Row, Table
from reports.formatting import NO_VALUE, format_value

PAPER_METRICS = ("miou_l", "util")
"""Metrics of the paper, which summaries show in full."""


def layer_tables(run: Run) -> tuple[Table, ...]:
    """Return the tables for which the run has rows."""
    if not run.num_layers:
        return ()
    tables = _metrics(run)
    if run.has_column("queries", "second_coverage"):
        tables += _transitions(run)
    return tuple(tables)


def layer_table(run: Run, title: str, note: str, rows: Iterable[tuple[str, list[str]]]) -> Table:
    """Return a table with one column per layer 0..L from labels and cells."""
    columns = ("Layer", *map(str, range(run.num_layers + 1)))
    return Table(title, columns, tuple(Row((label, *cells)) for label, cells in rows), note)


def metric_definitions() -> Table:
    """Return the table that explains the metrics."""
    better = {None: "", True: "higher", False: "lower"}
    rows = (
        Row((metric.label, metric.meaning, better[metric.higher_is_better]))
        for metric in LAYER_METRICS.values()
    )
    note = "docs/metrics.md has the formulas."
    return Table("", ("Metric", "Meaning", "Better"), tuple(rows), note, label_columns=3)


def _metrics(run: Run) -> list[Table]:
    layers = run.layer_metrics(intervals=True)
    metrics = [
        metric for metric in LAYER_METRICS.values() if _has_values(metric, layers[metric.name])
    ]
    rows = [(_label(metric), _cells(layers[metric.name], metric.unit)) for metric in metrics]
    scores = pd.DataFrame(run.summary.get("layer_scores") or [])
    known = {label: scores[key] for key, label in SCORES.items() if key in scores}
    rows += [(label, _cells(values.astype(float))) for label, values in known.items()]
    half_widths = [
        (_label(metric), _cells((high - low) / 2, metric.unit))
        for metric in metrics
        for low, high in [(layers[f"{metric.name}_low"], layers[f"{metric.name}_high"])]
    ]
    note = (
        "Percent, or the unit in parentheses. Layer 0 is the prediction before the first decoder "
        "layer."
    )
    interval_note = "Half width of the 95% confidence interval over resampled images."
    return [
        layer_table(run, "Metrics", note, rows),
        layer_table(run, "Confidence intervals of the metrics, ±", interval_note, half_widths),
    ]


def _label(metric: LayerMetric) -> str:
    return metric.label if metric.unit == "fraction" else f"{metric.label} ({metric.unit})"


def _has_values(metric: LayerMetric, values: "pd.Series[float]") -> bool:
    """Whether to show the metric: a count that is 0 in every layer is not worth a row."""
    return bool(values.any() if metric.unit == "count" else values.notna().any())


def _transitions(run: Run) -> list[Table]:
    table, thresholds = run.transitions(), run.thresholds
    layers = range(1, run.num_layers + 1)  # also those without a finite mask
    of_class = {
        name: rows.set_index("layer").reindex(layers)
        for name in TRANSITIONS
        for rows in [table[table["transition"] == name]]
    }
    layer0 = [math.nan]  # there is no transition into layer 0
    shares = [
        (f"{name}: {meaning}", _cells([*layer0, *of_class[name]["share"]]))
        for name, meaning in TRANSITIONS.items()
    ]
    of_layer = table.groupby("layer")[["empty", "count"]].sum().reindex(layers)
    shares.append(("kept, both empty", _cells([*layer0, *(of_layer["empty"] / of_layer["count"])])))
    gains = [(name, _signed_cells(rows["util_gain"])) for name, rows in of_class.items()]
    return [
        layer_table(
            run,
            "Transitions",
            "Percent of the transitions into the layer. Thresholds: kept if the IoU is at least "
            f"{thresholds.kept_iou}; on an object if the IoU is at least {thresholds.object_iou}; "
            "on several objects if the mask covers at least "
            f"{thresholds.several} of a second object.",
            shares,
        ),
        layer_table(
            run,
            "Util gained if transitions were undone",
            "Percentage points of Util, if the queries of the class had kept the match of the "
            "layer before. A negative value means that the transition helps.",
            gains,
        ),
    ]


def _cells(values: Iterable[Any], unit: str = "fraction") -> list[str]:
    """Return a cell per layer; the cell of layer 0 is empty if it has no value."""
    first, *others = (format_value(float(value), unit) for value in values)
    return ["" if first == NO_VALUE else first, *others]


def _signed_cells(values: Iterable[Any]) -> list[str]:
    """Return an empty cell for layer 0, and signed percentage points for layers 1..L."""
    cells = (NO_VALUE if math.isnan(value) else f"{100 * value:+z.1f}" for value in values)
    return ["", *("0.0" if cell == "+0.0" else cell for cell in cells)]
