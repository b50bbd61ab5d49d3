"""The curves of Table 1, and the style of all figures."""

import io
import math
import textwrap
import warnings
from collections.abc import Callable
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from reports.palette import PAPER_COLOR, RUN_COLORS, cycle
from reports.table1 import Table1, Table1Row, Values

RUN_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PAPER_MARKERS = ("o", "s", "^")
PAPER_DASHES = ("--", "-.", ":")

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "mpdiag",
    "svg.fonttype": "path",
}


def draw_curves(table: Table1, kind: Literal["svg", "png"]) -> bytes:
    """Plot mIoU-L and Util against the layer; equal tables give equal bytes."""
    return render_figure(lambda: _figure(table), kind)


def render_figure(figure: Callable[[], Figure], kind: Literal["svg", "png"]) -> bytes:
    """Render a figure in the style of the reports; equal figures give equal bytes."""
    stream = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The font may lack letters of a run's name; the legend then shows a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure().savefig(stream, format=kind, dpi=160, metadata=metadata)
    return stream.getvalue()


def _figure(table: Table1) -> Figure:
    entries = len(table.rows)
    columns = 1 if any(len(_label(row)) > 48 for row in table.rows) else 2
    legend_rows = math.ceil(entries / columns)
    layout = ConstrainedLayoutEngine(w_pad=0.12)
    figure = Figure(figsize=(9, 3.5 + 0.22 * legend_rows), layout=layout)
    left, right = figure.subplots(1, 2, sharey=True)
    handles = []
    for row, style in _styles(table):
        _plot(left, row.miou_l, style)
        _plot(right, row.util, style)
        handles.append(Line2D([], [], **style, label=_label(row)))
    _decorate(left, "mIoU-L$^i$: IoU of the masks of layers $i-1$ and $i$", table.num_layers)
    _decorate(right, "Util$^i$: objects matched as in the last layer", table.num_layers)
    left.set_ylabel("Percent")
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _styles(table: Table1) -> list[tuple[Table1Row, dict[str, Any]]]:
    runs = [
        (
            row,
            {
                "color": cycle(RUN_COLORS, k),
                "marker": cycle(RUN_MARKERS, k),
                "linewidth": 1.8,
                "markersize": 5,
                "zorder": 3,
            },
        )
        for k, row in enumerate(table.from_source("run"))
    ]
    published = [
        (
            row,
            {
                "color": PAPER_COLOR,
                "marker": cycle(PAPER_MARKERS, k),
                "linestyle": cycle(PAPER_DASHES, k),
                "linewidth": 1.1,
                "markersize": 4.5,
                "markerfacecolor": "white",
            },
        )
        for k, row in enumerate(table.from_source("paper"))
    ]
    return runs + published


def _plot(axes: Axes, values: Values, style: dict[str, Any]) -> None:
    # NaN leaves a gap in the line for an unknown value.
    percent = [math.nan if value is None else 100 * value for value in values]
    # The layout has no size if a line has no point.
    if not all(map(math.isnan, percent)):
        axes.plot(range(1, len(values) + 1), percent, clip_on=False, **style)


def _decorate(axes: Axes, title: str, num_layers: int) -> None:
    axes.set_title(title, fontsize=10, pad=9)
    axes.set_xlabel("Layer $i$")
    axes.set_xticks(range(1, num_layers + 1))
    axes.set_xlim(0.6, num_layers + 0.4)
    axes.set_ylim(0, 100)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)


def _label(row: Table1Row) -> str:
    name = textwrap.shorten(row.name, 44, placeholder="…") or "…"
    suffix = "paper" if row.source == "paper" else ""
    text = f"{name} ({', '.join(filter(None, (row.part_name, suffix)))})"
    # Matplotlib reads $...$ as math and drops labels that start with an underscore.
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
