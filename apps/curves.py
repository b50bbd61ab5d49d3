"""Curves of per-layer metrics: their values, their figure and their table."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from streamlit.delta_generator import DeltaGenerator

from apps import url_state
from apps.formatting import escape_html
from apps.runs import LoadedRun, cached
from mpdiag.store import LAYER_METRICS, LayerMetric
from reports import palette, paper
from reports.formatting import part_name
from reports.layer_tables import PAPER_METRICS

RUN_MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon")
PAPER_MARKERS = ("circle-open", "square-open", "diamond-open")
PAPER_DASHES = ("dash", "dot", "dashdot")
COLUMNS = 2
"""Number of subplots side by side."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric of one model over the layers.

    Attributes:
        model: display name of the model.
        metric: name in LAYER_METRICS.
        is_paper: whether the values are the paper's.
        values: layer -> value, NaN if unknown.
        intervals: layer -> ends of the 95% interval; empty if there are none.
    """

    model: str
    metric: str
    is_paper: bool
    values: dict[int, float]
    intervals: dict[int, tuple[float, float]]


def select_metrics(
    container: DeltaGenerator, options: Collection[str] = LAYER_METRICS
) -> list[str]:
    """Show a multiselect of metrics and return the names of the selected ones."""
    metrics = [LAYER_METRICS[name] for name in LAYER_METRICS if name in options]
    names = [metric.name for metric in metrics]
    return url_state.multiselect(
        "Metrics",
        "metrics",
        names,
        container=container,
        default=[name for name in PAPER_METRICS if name in names] or names[:1],
        format_func=lambda name: LAYER_METRICS[name].label,
        help="  \n".join(map(describe, metrics)),
    )


def run_curves(
    loaded: LoadedRun, metrics: Iterable[str], with_intervals: bool = False
) -> list[Curve]:
    """Return a curve for each metric of a run."""
    metrics = list(metrics)
    table = _layer_metrics(loaded, set(metrics) <= set(PAPER_METRICS))
    if table.empty:
        return [Curve(loaded.name, name, False, {}, {}) for name in metrics]
    curves = []
    for name in metrics:
        rows = table[table["layer"] >= LAYER_METRICS[name].first_layer]
        known = rows.dropna(subset=[f"{name}_low", f"{name}_high"])
        ends = zip(known[f"{name}_low"], known[f"{name}_high"], strict=True)
        intervals = dict(zip(known["layer"], ends, strict=True)) if with_intervals else {}
        values = dict(zip(rows["layer"], rows[name], strict=True))
        curves.append(Curve(loaded.name, name, False, values, intervals))
    return curves


def paper_curves(metrics: Iterable[str]) -> list[Curve]:
    """Return the curves of the paper's Table 1, NaN where a value is not available."""
    return [
        Curve(
            f"{row.model}, {part_name(row.part)} (paper)",
            name,
            True,
            dict(enumerate(pd.Series(getattr(row, name), dtype=float), start=1)),
            {},
        )
        for row in paper.table1()
        for name in metrics
        if name in PAPER_METRICS
    ]


def figure(curves: Sequence[Curve]) -> go.Figure:
    """Draw one subplot per metric over the layers; the paper's curves are dashed."""
    metrics = list(dict.fromkeys(curve.metric for curve in curves))
    chart, places = metric_subplots(metrics)
    styles = _styles(curves)
    in_legend: set[str] = set()
    # The paper's curves first, so that those of the runs are on top.
    for curve in sorted(curves, key=lambda curve: not curve.is_paper):
        place, style = places[curve.metric], styles[curve.model]
        if curve.intervals:
            _add_band(chart, curve, style["line"]["color"], place)
        _add_curve(chart, curve, style | {"showlegend": curve.model not in in_legend}, place)
        in_legend.add(curve.model)
    for name in metrics:
        chart.update_yaxes(**axis_format(LAYER_METRICS[name]), **places[name])
    return chart


def metric_subplots(
    metrics: Sequence[str], title: str = "{}"
) -> tuple[go.Figure, dict[str, dict[str, int]]]:
    """Return a figure with one subplot per metric, and row and col of each metric."""
    columns = min(COLUMNS, len(metrics))
    rows = -(-len(metrics) // columns)
    chart = make_subplots(
        rows,
        columns,
        subplot_titles=[title.format(LAYER_METRICS[name].label) for name in metrics],
        horizontal_spacing=0.1,
        vertical_spacing=0.35 / rows,
    )
    chart.update_xaxes(title_text="layer", dtick=1, zeroline=False, showgrid=False)
    chart.update_layout(
        height=100 + 320 * rows,
        legend={"orientation": "h", "yanchor": "top", "y": -0.2 / rows, "x": 0},
    )
    return chart, {
        name: {"row": index // columns + 1, "col": index % columns + 1}
        for index, name in enumerate(metrics)
    }


def table(curves: Sequence[Curve]) -> pd.DataFrame:
    """Return one row per curve, fractions in percent; columns Model, Metric, then the layers."""
    layers = sorted({layer for curve in curves for layer in curve.values})
    rows = []
    for curve in curves:
        factor = scale(LAYER_METRICS[curve.metric])
        values = [factor * curve.values.get(layer, float("nan")) for layer in layers]
        rows.append([curve.model, label_with_unit(LAYER_METRICS[curve.metric]), *values])
    return pd.DataFrame(rows, columns=["Model", "Metric", *map(str, layers)])


def scale(metric: LayerMetric) -> int:
    """Return the factor between stored and displayed values: fractions are shown in percent."""
    return 100 if metric.unit == "fraction" else 1


def label_with_unit(metric: LayerMetric) -> str:
    """Return the metric's label with its unit."""
    return f"{metric.label}, {'%' if metric.unit == 'fraction' else metric.unit}"


def describe(metric: LayerMetric) -> str:
    """Return the meaning of a metric and its direction, as Markdown."""
    direction = {None: "", True: " Higher is better.", False: " Lower is better."}
    meaning = metric.meaning[:1].upper() + metric.meaning[1:]
    return f"**{metric.label}**: {meaning}.{direction[metric.higher_is_better]}"


def axis_format(metric: LayerMetric) -> dict[str, Any]:
    """Return the y axis of a metric."""
    if metric.unit == "fraction":
        return {"range": [0, 104], "dtick": 20, "ticksuffix": "%", "zeroline": False}
    if metric.unit == "correlation":
        return {"range": [-1.04, 1.04], "dtick": 0.5}
    return {"rangemode": "tozero", "title_text": metric.unit}


@cached
def _layer_metrics(loaded: LoadedRun, paper_only: bool) -> pd.DataFrame:
    """Return the metrics with intervals. Those of the paper are fast for runs of all versions."""
    return loaded.run.layers() if paper_only else loaded.run.layer_metrics(intervals=True)


def _styles(curves: Sequence[Curve]) -> dict[str, dict[str, Any]]:
    """Return the line and marker of each model, in the order of the curves."""
    models = dict.fromkeys((curve.model, curve.is_paper) for curve in curves)
    runs = [model for model, is_paper in models if not is_paper]
    references = [model for model, is_paper in models if is_paper]
    styles = {
        model: {
            "line": {"color": palette.cycle(palette.RUN_COLORS, index), "width": 2.5},
            "marker": {"symbol": palette.cycle(RUN_MARKERS, index), "size": 8},
            "legendrank": index,
        }
        for index, model in enumerate(runs)
    }
    for index, model in enumerate(references):
        dash = palette.cycle(PAPER_DASHES, index)
        styles[model] = {
            "line": {"color": palette.PAPER_COLOR, "width": 1.5, "dash": dash},
            "marker": {"symbol": palette.cycle(PAPER_MARKERS, index), "size": 7},
            "legendrank": len(runs) + index,
        }
    return styles


def _add_curve(
    chart: go.Figure, curve: Curve, style: dict[str, Any], place: dict[str, int]
) -> None:
    metric = LAYER_METRICS[curve.metric]
    chart.add_scatter(
        **place,
        x=list(curve.values),
        y=[None if pd.isna(value) else scale(metric) * value for value in curve.values.values()],
        name=escape_html(curve.model),
        legendgroup=curve.model,
        mode="lines+markers",
        hovertemplate="layer %{x}: " + ("%{y:.1f}%" if scale(metric) == 100 else "%{y:.2f}"),
        **style,
    )


def _add_band(chart: go.Figure, curve: Curve, color: str, place: dict[str, int]) -> None:
    """Fill the interval; clicking the curve's legend entry also hides its band."""
    factor = scale(LAYER_METRICS[curve.metric])
    layers = list(curve.intervals)
    low, high = (
        [factor * end for end in ends] for ends in zip(*curve.intervals.values(), strict=True)
    )
    chart.add_scatter(
        **place,
        x=layers + layers[::-1],
        y=high + low[::-1],
        legendgroup=curve.model,
        showlegend=False,
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=palette.with_opacity(color),
        hoverinfo="skip",
    )
