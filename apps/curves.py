"""The curves of mIoU-L and Util: their values, their figure and their table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from apps import palette, texts
from apps.runs import Loaded, cached
from reports import paper
from reports.cells import part_name
from reports.table1 import Series, Values

CONVENTIONS = {
    "miou_l": "left out",
    "miou_l_empty0": "counted as 0",
    "miou_l_empty1": "counted as 1",
    "miou_l_matched": "left out, and only queries matched in the last layer",
}
"""Key of a mIoU-L in summary.json, and what becomes of pairs of empty masks in it."""


@dataclass(frozen=True, slots=True)
class Bands:
    """Ends of the 95% intervals of a run's curves over layers 1..L; none without `miou_l`."""

    miou_l: tuple[Values, Values] | None
    util: tuple[Values, Values]


def of_run(loaded: Loaded, key: str) -> Series:
    """The curves of a run; `key` is one of CONVENTIONS."""
    layers = loaded.run.summary["layers"]
    miou_l = tuple(layer[key] for layer in layers)
    util = tuple(layer["util"] for layer in layers)
    return Series(loaded.name, str(loaded.run.header.get("part")), "run", miou_l, util)


def bands_of(loaded: Loaded, key: str) -> Bands | None:
    """The intervals of a run's curves, by resampling images; mIoU-L's of the first convention.

    None where the run has no image.
    """
    table = _intervals(loaded)
    if table.empty:
        return None
    layers = table[table["layer"] > 0]
    ends = {
        metric: (_values(layers[f"{metric}_low"]), _values(layers[f"{metric}_high"]))
        for metric in ("miou_l", "util")
    }
    return Bands(ends["miou_l"] if key == "miou_l" else None, ends["util"])


def of_paper() -> list[Series]:
    """The curves of the paper's Table 1, None where they are not legible."""
    return [
        Series(
            f"{row.model}, {part_name(row.part)} (paper)", row.part, "paper", row.miou_l, row.util
        )
        for row in paper.table1()
    ]


def figure(curves: Sequence[Series], bands: Sequence[Bands | None] = ()) -> go.Figure:
    """mIoU-L^i on the left, Util^i on the right, over the layers; the paper's figures dashed.

    `bands` are those of the runs among `curves`, in their order.
    """
    titles = ("mIoU-L: IoU with the layer before", "Util: objects matched as in the last layer")
    result = make_subplots(cols=2, subplot_titles=titles, horizontal_spacing=0.08)
    for order, series in enumerate(one for one in curves if one.source == "paper"):
        dash = palette.nth(palette.PAPER_DASHES, order)
        line = {"color": palette.PAPER, "width": 1.5, "dash": dash}
        marker = {"symbol": palette.nth(palette.PAPER_MARKERS, order), "size": 7}
        _add(result, series, line=line, marker=marker, legendrank=len(curves) + order)
    for order, series in enumerate(one for one in curves if one.source == "run"):
        color = palette.nth(palette.RUNS, order)
        if order < len(bands) and (band := bands[order]) is not None:
            _add_band(result, series.name, 1, band.miou_l, color)
            _add_band(result, series.name, 2, band.util, color)
        line = {"color": color, "width": 2.5}
        marker = {"symbol": palette.nth(palette.RUN_MARKERS, order), "size": 8}
        _add(result, series, line=line, marker=marker, legendrank=order)
    result.update_xaxes(title_text="layer", dtick=1, zeroline=False, showgrid=False)
    result.update_yaxes(range=[0, 104], dtick=20, ticksuffix=" %", zeroline=False)
    result.update_layout(
        height=420,
        margin={"l": 10, "r": 10, "t": 40, "b": 10},
        legend={"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0},
    )
    return result


def table(curves: Sequence[Series]) -> pd.DataFrame:
    """Two rows for each model, in percent; columns Model, Metric, then the layers 1..L."""
    num_layers = max((len(series.util) for series in curves), default=0)
    rows = [
        [series.name, metric, *_percents(values), *[None] * (num_layers - len(values))]
        for series in curves
        for metric, values in (("mIoU-L", series.miou_l), ("Util", series.util))
    ]
    layers = [str(layer) for layer in range(1, num_layers + 1)]
    return pd.DataFrame(rows, columns=["Model", "Metric", *layers])


@cached
def _intervals(loaded: Loaded) -> pd.DataFrame:
    return loaded.run.layers()


def _add(figure: go.Figure, series: Series, **style: Any) -> None:
    for column, values in ((1, series.miou_l), (2, series.util)):
        figure.add_scatter(
            row=1,
            col=column,
            x=list(range(1, len(values) + 1)),
            y=_percents(values),
            name=texts.html(series.name),
            legendgroup=series.name,
            showlegend=column == 1,
            mode="lines+markers",
            hovertemplate="layer %{x}: %{y:.1f} %",
            **style,
        )


def _add_band(
    figure: go.Figure, name: str, column: int, ends: tuple[Values, Values] | None, color: str
) -> None:
    """The area between both ends; it goes and comes with the curve in the legend."""
    if ends is None:
        return
    known = [
        (layer, 100 * low, 100 * high)
        for layer, (low, high) in enumerate(zip(*ends, strict=True), start=1)
        if low is not None and high is not None
    ]
    figure.add_scatter(
        row=1,
        col=column,
        x=[layer for layer, _, _ in known] + [layer for layer, _, _ in reversed(known)],
        y=[high for _, _, high in known] + [low for _, low, _ in reversed(known)],
        legendgroup=name,
        showlegend=False,
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=palette.faint(color),
        hoverinfo="skip",
    )


def _percents(values: Values) -> list[float | None]:
    return [None if value is None else 100 * value for value in values]


def _values(column: pd.Series) -> Values:
    return tuple(None if np.isnan(value) else float(value) for value in column)
