"""Figures of one image: a heatmap of queries by layers, and the matching over the layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go

from apps.formatting import escape_html, format_percent, shorten
from reports import palette
from reports.names import layer_symbol

HEATMAP_VALUES = {
    "iou_prev": "IoU with the layer before",
    "best_gt_iou": "IoU with the best GT",
    "matched_gt_iou": "IoU with the matched GT",
    "score": "class score",
}
"""Column of `queries` -> label in the heatmap."""
NARROW, CHARACTER = 640, 6.2
"""Pixels: width of a figure in a narrow window, in which names must fit, and of a character."""
MAX_GT = 40
"""Number of GT in a figure; more are not readable."""


def first_gt(targets: pd.DataFrame, selected: int) -> pd.DataFrame:
    """Return the first MAX_GT of the targets; the last is `selected` if it comes later."""
    is_selected = (targets["gt"] == selected).to_numpy()
    others = MAX_GT - int(is_selected[MAX_GT:].any())
    return targets[is_selected | (np.arange(len(targets)) < others)]


def describe_limit(count: int) -> str:
    """Return a sentence that says how many of `count` GT a figure shows, after a space, or ""."""
    return f" Only {MAX_GT} of {count} GT are shown." if count > MAX_GT else ""


def query_heatmap(queries: pd.DataFrame, value: str, query: int, layer: int | None) -> go.Figure:
    """Draw a value of each query (x) in each layer (y), with a frame around (`query`, `layer`).

    Without a layer, there is no frame.

    `queries` are rows of an image; queries that are left out leave no gap. Streamlit ignores clicks
    on heatmaps, so an invisible marker per cell receives them, with the query as x and the layer as
    y.
    """
    grid = queries.pivot(index="layer", columns="query", values=value)
    symbols = [layer_symbol(int(index)) for index in grid.index]
    names = [str(number) for number in grid.columns]
    values = grid.to_numpy(dtype=float)
    texts = [
        f"{symbol}: {'none' if np.isnan(cell) else format_percent(cell)}"
        for symbol, row in zip(symbols, values, strict=True)
        for cell in row
    ]
    chart = go.Figure(
        go.Heatmap(
            z=100 * values,
            x=names,
            y=grid.index.tolist(),
            zmin=0,
            zmax=100,
            colorscale=palette.COLORSCALE,
            xgap=1,
            ygap=1,
            hoverinfo="skip",
            colorbar={"ticksuffix": "%", "thickness": 10, "outlinewidth": 0, "dtick": 25},
        )
    )
    invisible = {"marker": {"opacity": 0}}
    chart.add_scatter(
        x=names * len(symbols),
        y=np.repeat(grid.index, len(names)).tolist(),
        customdata=texts,
        mode="markers",
        marker={"symbol": "square", "size": 14, "opacity": 0},
        selected=invisible,
        unselected=invisible,
        hovertemplate="query %{x}, %{customdata}<extra></extra>",
        showlegend=False,
    )
    if layer is not None:
        place = names.index(str(query))
        chart.add_shape(
            type="rect",
            x0=place - 0.5,
            x1=place + 0.5,
            y0=layer - 0.5,
            y1=layer + 0.5,
            line={"color": palette.SELECTION_COLOR, "width": 2.5},
        )
    chart.update_xaxes(
        type="category",
        title_text="query",
        showgrid=False,
        zeroline=False,
        range=[-0.5, len(names) - 0.5],
        nticks=26,
    )
    chart.update_yaxes(
        autorange="reversed",
        showgrid=False,
        zeroline=False,
        tickvals=grid.index.tolist(),
        ticktext=symbols,
    )
    chart.update_layout(height=90 + 18 * len(symbols), dragmode=False)
    return chart


def matching_chart(
    targets: pd.DataFrame, class_names: Sequence[str], highlighted: int = -1
) -> go.Figure:
    """Draw each GT as a line over layers 0..L through the queries that it matches.

    Each query has one row: a line that changes its row changes its query, and a gap is a layer
    without a match. The GT `highlighted` is red and thicker than the others.
    """
    shown = first_gt(targets.assign(name=list(class_names)), highlighted)
    matches = np.stack([np.asarray(row) for row in shown["matched_query"]])
    rows = _query_rows(matches)
    chart, longest = go.Figure(), 0
    for gt, name, queries in zip(shown["gt"], shown["name"], matches.tolist(), strict=True):
        is_highlighted = gt == highlighted
        color = palette.MASK_COLOR if is_highlighted else palette.cycle(palette.GT_COLORS, int(gt))
        text, label = escape_html(f"GT {gt} {name}"), f"GT {gt} {shorten(name, 16)}"
        longest = max(longest, len(label))
        chart.add_scatter(
            x=list(range(len(queries))),
            y=[rows.get(query) for query in queries],
            customdata=[[text, query, layer_symbol(layer)] for layer, query in enumerate(queries)],
            mode="lines+markers",
            line={"color": palette.to_hex(color), "width": 9 if is_highlighted else 5},
            marker={"size": 11 if is_highlighted else 8},
            opacity=0.9 if is_highlighted or highlighted < 0 else 0.65,
            hovertemplate="%{customdata[0]}: query %{customdata[1]} in %{customdata[2]}"
            "<extra></extra>",
            showlegend=False,
        )
        first = next(layer for layer, query in enumerate(queries) if query >= 0)
        chart.add_annotation(
            x=first,
            y=rows[queries[first]],
            text=escape_html(label),
            xanchor="right",
            xshift=-10,
            showarrow=False,
        )
    depth = matches.shape[1]
    share = (15 + CHARACTER * longest) / NARROW
    chart.update_xaxes(
        range=[(0.8 - depth) * share / (1 - share), depth - 0.8],
        tickvals=list(range(depth)),
        ticktext=[layer_symbol(layer) for layer in range(depth)],
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
        height=80 + 20 * max(len(rows), 2),
    )
    return chart


def _query_rows(matches: npt.NDArray[Any]) -> dict[int, int]:
    """Assign a row to each query: by GT, from the query of the last layer to that of the first."""
    order: list[int] = []
    for queries in matches.tolist():
        for query in reversed(queries):
            if query >= 0 and query not in order:
                order.append(query)
    return {query: row for row, query in enumerate(order)}
