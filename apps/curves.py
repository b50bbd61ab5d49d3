"""The curves of mIoU-L and Util: their values, their figure and their table."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mpdiag.errors import RunError
from mpdiag.store import Run
from reports import paper

# Told apart without hue as well, by marker and dash; all have contrast on white and on black.
RUN_COLORS = ("#3b82c4", "#d55e00", "#009e73", "#b565a7", "#a67c00", "#4a9aa8")
RUN_MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon")
PAPER_COLOR = "#8a8a8a"
PAPER_DASHES = ("dash", "dot", "dashdot")
PAPER_MARKERS = ("circle-open", "square-open", "diamond-open")

EMPTY_PAIRS = {
    "left out": "miou_l",
    "counted as 0": "miou_l_empty0",
    "counted as 1": "miou_l_empty1",
    "left out, matched queries only": "miou_l_matched",
}
"""What mIoU-L does with pairs of empty masks, and its key in summary.json."""

Values = list[float | None]


@dataclass(frozen=True, slots=True)
class Curves:
    """mIoU-L^i and Util^i of one model, in percent, for i = 1..L; None where unknown."""

    name: str
    miou_l: Values
    util: Values
    from_paper: bool = False


def of_run(run: Run, name: str, key: str = "miou_l") -> Curves:
    """The curves of a run; `key` is one of EMPTY_PAIRS. RunError where its summary lacks them."""
    try:
        layers = sorted(run.summary["layers"], key=lambda layer: int(layer["layer"]))
        return Curves(
            name,
            [_percent(layer[key]) for layer in layers],
            [_percent(layer["util"]) for layer in layers],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{run.path / 'summary.json'} lacks the figures of its layers: analyse it again."
        ) from error


def figure(curves: Sequence[Curves]) -> go.Figure:
    """mIoU-L^i on the left, Util^i on the right, over the layers; the paper's figures dashed."""
    titles = ("mIoU-L: agreement with the layer before", "Util: objects at their final query")
    result = make_subplots(cols=2, subplot_titles=titles, horizontal_spacing=0.07)
    runs = [curve for curve in curves if not curve.from_paper]
    references = [curve for curve in curves if curve.from_paper]
    for order, curve in enumerate(references):
        style = {
            "line": {"color": PAPER_COLOR, "width": 1.5, "dash": _nth(PAPER_DASHES, order)},
            "marker": {"symbol": _nth(PAPER_MARKERS, order), "size": 7},
        }
        _add(result, curve, style)
    for order, curve in enumerate(runs):
        style = {
            "line": {"color": _nth(RUN_COLORS, order), "width": 2.5},
            "marker": {"symbol": _nth(RUN_MARKERS, order), "size": 8},
        }
        _add(result, curve, style)
    result.update_xaxes(title_text="Layer i", dtick=1, zeroline=False, showgrid=False)
    result.update_yaxes(range=[0, 104], dtick=20, ticksuffix=" %", zeroline=False)
    result.update_layout(
        height=400,
        margin={"l": 10, "r": 10, "t": 40, "b": 10},
        legend={"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0, "traceorder": "reversed"},
        hovermode="closest",
    )
    return result


def table(curves: Sequence[Curves]) -> pd.DataFrame:
    """Two rows for each model, in percent; columns Model, Figure, then the layers 1..L."""
    num_layers = max((len(curve.miou_l) for curve in curves), default=0)
    rows = [
        [curve.name, figure_name, *values, *[None] * (num_layers - len(values))]
        for curve in curves
        for figure_name, values in (("mIoU-L", curve.miou_l), ("Util", curve.util))
    ]
    columns = ["Model", "Figure", *(str(layer) for layer in range(1, num_layers + 1))]
    return pd.DataFrame(rows, columns=columns)


def _add(figure: go.Figure, curve: Curves, style: dict[str, object]) -> None:
    for column, values in ((1, curve.miou_l), (2, curve.util)):
        figure.add_scatter(
            row=1,
            col=column,
            x=list(range(1, len(values) + 1)),
            y=values,
            name=curve.name,
            legendgroup=curve.name,
            showlegend=column == 1,
            mode="lines+markers",
            hovertemplate="layer %{x}: %{y:.1f} %",
            **style,
        )


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * float(fraction)


def _nth(cycle: Sequence[str], order: int) -> str:
    return cycle[order % len(cycle)]
