"""Figures of one image: a heat map of queries by layers, and the matching as a flow."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go

from apps import palette, texts

MEASURES = {
    "iou_prev": "IoU with the layer before",
    "best_gt_iou": "IoU with its best GT",
    "matched_gt_iou": "IoU with the GT that it matches",
    "score": "score of its class",
}
"""Column of the rows -> words: what the heat map shows."""
MOST_FLOWS = 40
"""GT that the flow shows; an image has a few hundred at most, which no eye can follow."""


def heat_map(queries: pd.DataFrame, measure: str, query: int, layer: int) -> go.Figure:
    """Queries from left to right, layers from top to bottom; (`query`, `layer`) is framed.

    `queries` are the rows of an image. Heat maps take no clicks in Streamlit, so that unseen marks
    lie over the cells, a point each with its query and layer as x and y.
    """
    grid = queries.pivot(index="layer", columns="query", values=measure)
    names = [texts.layer(int(index)) for index in grid.index]
    layers, columns = np.meshgrid(grid.index, grid.columns, indexing="ij")
    values = grid.to_numpy(dtype=float)
    words = [_said(value) for value in values.ravel()]
    chart = go.Figure(
        go.Heatmap(
            z=100 * values,
            x=grid.columns.tolist(),
            y=grid.index.tolist(),
            zmin=0,
            zmax=100,
            colorscale=palette.HEAT,
            xgap=1,
            ygap=1,
            hoverinfo="skip",
            colorbar={"ticksuffix": " %", "thickness": 10, "outlinewidth": 0, "dtick": 25},
        )
    )
    unseen = {"marker": {"opacity": 0}}
    chart.add_scatter(
        x=columns.ravel().tolist(),
        y=layers.ravel().tolist(),
        customdata=[[names[k // len(grid.columns)], word] for k, word in enumerate(words)],
        mode="markers",
        marker={"symbol": "square", "size": 14, "opacity": 0},
        selected=unseen,
        unselected=unseen,
        hovertemplate="query %{x}, %{customdata[0]}: %{customdata[1]}<extra></extra>",
        showlegend=False,
    )
    chart.add_shape(
        type="rect",
        x0=query - 0.5,
        x1=query + 0.5,
        y0=layer - 0.5,
        y1=layer + 0.5,
        line={"color": palette.CHOSEN, "width": 2.5},
    )
    numbers = [int(number) for number in grid.columns]
    ends = [min(numbers) - 0.5, max(numbers) + 0.5]
    steps = {"nticks": 26} if len(numbers) > 26 else {"dtick": 1}
    chart.update_xaxes(title_text="query", showgrid=False, zeroline=False, range=ends, **steps)
    chart.update_yaxes(
        autorange="reversed",
        showgrid=False,
        zeroline=False,
        tickvals=grid.index.tolist(),
        ticktext=names,
    )
    chart.update_layout(
        height=90 + 18 * len(names), margin={"l": 10, "r": 10, "t": 30, "b": 10}, dragmode=False
    )
    return chart


def flow(targets: pd.DataFrame, class_names: Sequence[str], marked: int = -1) -> go.Figure:
    """Each GT as a band, from its name over the query that it matches in each of layers 0..L.

    Queries have rows: a band that changes its row changes its query, and one that ends in a gap
    matches none there. GT `marked` is red, as in pictures, and stronger than others.
    """
    shown = targets.head(MOST_FLOWS)
    matches = np.stack([np.asarray(row) for row in shown["matched_query"]])
    rows = _rows(matches)
    chart = go.Figure()
    for gt, name, queries in zip(shown["gt"], class_names, matches.tolist(), strict=False):
        color = palette.css(palette.MASK if gt == marked else palette.nth(palette.GT, int(gt)))
        text = texts.html(f"GT {gt} {name}")
        chart.add_scatter(
            x=list(range(len(queries))),
            y=[rows.get(query) for query in queries],
            customdata=[[query, texts.layer(layer)] for layer, query in enumerate(queries)],
            mode="lines+markers",
            line={"color": color, "width": 9 if gt == marked else 5},
            marker={"size": 11 if gt == marked else 8},
            opacity=0.9 if gt == marked or marked < 0 else 0.65,
            hovertemplate=f"{text}: query %{{customdata[0]}} in %{{customdata[1]}}<extra></extra>",
            showlegend=False,
        )
        first = next(layer for layer, query in enumerate(queries) if query >= 0)
        chart.add_annotation(
            x=first, y=rows[queries[first]], text=text, xanchor="right", xshift=-10, showarrow=False
        )
    depth = matches.shape[1]
    chart.update_xaxes(
        range=[-1.2, depth - 0.8],
        tickvals=list(range(depth)),
        ticktext=[texts.layer(layer) for layer in range(depth)],
        side="top",
        zeroline=False,
    )
    chart.update_yaxes(
        title_text="query",
        side="right",
        range=[len(rows) - 0.4, -0.6],
        tickvals=list(rows.values()),
        ticktext=[str(query) for query in rows],
        zeroline=False,
    )
    chart.update_layout(
        height=80 + 20 * max(len(rows), 2), margin={"l": 10, "r": 10, "t": 50, "b": 10}
    )
    return chart


def _rows(matches: npt.NDArray[Any]) -> dict[int, int]:
    """A row for each query: the final ones in the order of GT, and what led to each beside it."""
    order: list[int] = []
    for queries in matches.tolist():
        for query in reversed(queries):
            if query >= 0 and query not in order:
                order.append(query)
    return {query: row for row, query in enumerate(order)}


def _said(value: float) -> str:
    return "none" if np.isnan(value) else f"{100 * value:.1f} %"
