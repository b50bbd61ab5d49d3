"""The curves of mIoU-L and Util: their values, their figure and their table."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mpdiag.store import Run
from reports import paper
from reports.table1 import Series, Values

CONVENTIONS = {
    "left out": "miou_l",
    "counted as 0": "miou_l_empty0",
    "counted as 1": "miou_l_empty1",
    "left out, and only queries matched in the last layer": "miou_l_matched",
}
"""What becomes of pairs of empty masks, and the key of such a mIoU-L in summary.json."""

# Told apart by marker and dash as well; every colour has contrast on white and on black.
RUN_COLORS = ("#3b82c4", "#d55e00", "#009e73", "#b565a7", "#a67c00", "#4a9aa8")
RUN_MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon")
PAPER_COLOR = "#8a8a8a"
PAPER_DASHES = ("dash", "dot", "dashdot")
PAPER_MARKERS = ("circle-open", "square-open", "diamond-open")


def of_run(run: Run, name: str, key: str) -> Series:
    """The curves of a run; `key` is one of CONVENTIONS."""
    layers = run.summary["layers"]
    miou_l = tuple(layer[key] for layer in layers)
    util = tuple(layer["util"] for layer in layers)
    return Series(name, str(run.header.get("part")), "run", miou_l, util)


def of_paper() -> list[Series]:
    """The curves of the paper's Table 1, None where they are not legible."""
    return [
        Series(f"{row.model}, {_short(row.part)} (paper)", row.part, "paper", row.miou_l, row.util)
        for row in paper.table1()
    ]


def figure(curves: Sequence[Series]) -> go.Figure:
    """mIoU-L^i on the left, Util^i on the right, over the layers; the paper's figures dashed."""
    titles = ("mIoU-L: IoU with the layer before", "Util: objects matched as in the last layer")
    result = make_subplots(cols=2, subplot_titles=titles, horizontal_spacing=0.08)
    for order, series in enumerate(one for one in curves if one.source == "paper"):
        line = {"color": PAPER_COLOR, "width": 1.5, "dash": _nth(PAPER_DASHES, order)}
        marker = {"symbol": _nth(PAPER_MARKERS, order), "size": 7}
        _add(result, series, line=line, marker=marker, legendrank=len(curves) + order)
    for order, series in enumerate(one for one in curves if one.source == "run"):
        line = {"color": _nth(RUN_COLORS, order), "width": 2.5}
        marker = {"symbol": _nth(RUN_MARKERS, order), "size": 8}
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


def _add(figure: go.Figure, series: Series, **style: Any) -> None:
    for column, values in ((1, series.miou_l), (2, series.util)):
        figure.add_scatter(
            row=1,
            col=column,
            x=list(range(1, len(values) + 1)),
            y=_percents(values),
            name=_plain(series.name),
            legendgroup=series.name,
            showlegend=column == 1,
            mode="lines+markers",
            hovertemplate="layer %{x}: %{y:.1f} %",
            **style,
        )


def _percents(values: Values) -> list[float | None]:
    return [None if value is None else 100 * value for value in values]


def _short(part: str) -> str:
    return part.split(",")[0] + " part"


def _plain(name: str) -> str:
    """Plotly reads a few HTML tags in texts, and a run's name may hold anything."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _nth(cycle: Sequence[str], order: int) -> str:
    return cycle[order % len(cycle)]
