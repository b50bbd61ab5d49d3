"""Queries: what each query matches over the whole data set, and where its masks are."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from apps import components, query_usage, url_state
from apps.formatting import escape_markdown, format_percent
from apps.runs import LoadedRun
from reports import palette
from reports.names import class_name, layer_symbol

ORDERS = {"number": "query number", "matches": "number of matches"}
MAX_CLASSES = 8
MAX_ROWS = 12
NUM_EXAMPLES = 6


def render(runs: Sequence[LoadedRun]) -> None:
    """Render the page."""
    components.page_header(
        "Queries", "What each query matches over the whole data set, and where its masks are."
    )
    left, middle, right = st.columns([3, 1, 2])
    loaded = url_state.select_run(runs, container=left)
    num_layers = loaded.run.num_layers
    layer = url_state.selectbox(
        "Layer",
        "layer",
        range(num_layers + 1),
        container=middle,
        default=num_layers,
        format_func=layer_symbol,
    )
    order = url_state.selectbox(
        "Sort by", "order", list(ORDERS), container=right, format_func=ORDERS.__getitem__
    )
    usage = query_usage.usage_by_query(loaded, layer)
    if usage.empty:
        components.show_empty(components.NO_IMAGES)
        return
    if loaded.run.header.get("part") == "piloted":
        st.caption("In the MP part, the query number is the index of a GT in its image.")
    _show_matches(loaded, usage, layer, order)
    query = _select_query(usage)
    st.header(f"Query {query} in {layer_symbol(layer)}", anchor=False)
    _show_query(loaded, layer, query)
    st.header("All queries", anchor=False)
    _show_table(loaded, usage, layer)


def _show_matches(loaded: LoadedRun, usage: pd.DataFrame, layer: int, order: str) -> None:
    unmatched = int((usage["matches"] == 0).sum())
    images = int(loaded.run.summary["num_images"])
    st.markdown(
        f"**{unmatched} of {len(usage)}** queries match no object in {layer_symbol(layer)} "
        f"({images:,} images). Click a bar to select its query."
    )
    if order == "matches":
        usage = usage.sort_values("matches", ascending=False, kind="stable")
    chart = go.Figure(
        go.Bar(
            x=[str(query) for query in usage["query"]],
            y=usage["matches"].tolist(),
            marker={"color": palette.RUN_COLORS[0], "line": {"width": 0}},
            hovertemplate="query %{x}: %{y} matches<extra></extra>",
        )
    )
    chart.update_xaxes(type="category", title_text="query", nticks=25, showgrid=False)
    chart.update_yaxes(title_text="matched images", rangemode="tozero")
    chart.update_layout(height=260, bargap=0.15, dragmode=False)
    components.clickable_figure(
        chart, f"{loaded.slug} matches", lambda point: url_state.update(query=int(point["x"]))
    )


def _select_query(usage: pd.DataFrame) -> int:
    """Return the query of the URL, else the one with most matches."""
    matches = dict(zip(usage["query"], usage["matches"], strict=True))
    return url_state.selectbox(
        "Query",
        "query",
        [int(query) for query in usage["query"]],
        container=st.columns([1, 3])[0],
        default=int(usage["query"].iloc[int(usage["matches"].argmax())]),
        format_func=lambda query: f"{query}: {matches[query]} matches",
    )


def _show_query(loaded: LoadedRun, layer: int, query: int) -> None:
    masks = query_usage.masks_of_query(loaded, layer, query)
    matched = masks[masks["gt"] >= 0]
    left, middle, right = st.columns(3, gap="medium")
    name = f"{loaded.slug} query {query}"
    with left:
        if not loaded.run.has_column("queries", "center_x"):
            components.show_empty(
                "This run has no mask centers: its schema version is too old. Run the analysis "
                "again."
            )
        else:
            counts = query_usage.center_histogram(masks["x"], masks["y"])
            _show_center_map(counts, "Centers of its masks", f"{name} masks")
    with middle:
        counts = query_usage.center_histogram(matched["gt_x"], matched["gt_y"])
        _show_center_map(counts, "Centers of matched GT", f"{name} GT")
    with right:
        _show_classes(loaded, matched, f"{name} classes")
    best = matched.sort_values("iou", ascending=False, kind="stable").head(NUM_EXAMPLES)
    if not best.empty:
        st.caption("Matches with the highest IoU:")
        links = st.container(horizontal=True)
        for row in best.to_dict("records"):
            url_state.page_link(
                "inspector",
                f"IoU {format_percent(row['iou'])}",
                container=links,
                icon=":material/layers:",
                help=escape_markdown(str(row["file_name"])),
                run=loaded.slug,
                image=int(row["image_id"]),
                query=query,
                layer=max(layer, 1),
            )


def _show_center_map(counts: query_usage.Counts, title: str, name: str) -> None:
    most = max(int(counts.max()), 1)
    chart = go.Figure(
        go.Heatmap(
            z=counts.tolist(),
            colorscale=palette.COLORSCALE,
            zmin=0,
            zmax=most,
            hovertemplate="%{z} images<extra></extra>",
            colorbar={"thickness": 10, "len": 0.9, "tick0": 0, "dtick": -(-most // 4)},
        )
    )
    chart.update_xaxes(visible=False, constrain="domain")
    chart.update_yaxes(visible=False, autorange="reversed", scaleanchor="x", constrain="domain")
    chart.update_layout(
        title={"text": f"{title} ({int(counts.sum())})", "font": {"size": 14}},
        height=320,
        dragmode=False,
    )
    components.figure(chart, name)


def _show_classes(loaded: LoadedRun, matched: pd.DataFrame, name: str) -> None:
    if matched.empty:
        st.caption("The query matches no object in this layer.")
        return
    by_class = matched.groupby("label").agg(count=("iou", "size"), iou=("iou", "mean"))
    by_class = by_class.sort_values("count", ascending=False, kind="stable")
    classes = {"Class": [class_name(loaded.run, int(label)) for label in by_class.index]}
    table = pd.DataFrame(
        {
            **classes,
            "Matches": by_class["count"].to_numpy(),
            "IoU, %": 100 * by_class["iou"].to_numpy(),
        }
    )
    height = "content" if len(table) <= MAX_CLASSES else components.ROW_HEIGHT * (MAX_CLASSES + 1)
    components.table(
        table, name, "classes", height=height, column_config=components.name_column(classes)
    )


def _show_table(loaded: LoadedRun, usage: pd.DataFrame, layer: int) -> None:
    images = max(int(loaded.run.summary["num_images"]), 1)
    table = pd.DataFrame(
        {
            "Query": usage["query"],
            "Matches": usage["matches"],
            "Matched images, %": 100 * usage["matches"] / images,
            "IoU with matched GT, %": 100 * usage["iou"],
            "Empty masks, %": 100 * usage["empty"],
            "Area, %": 100 * usage["area"],
            "Spread x, %": 100 * usage["spread_x"],
            "Spread y, %": 100 * usage["spread_y"],
        }
    )
    components.table(
        table,
        f"{loaded.slug} queries {layer}",
        "queries",
        height="content" if len(table) <= MAX_ROWS else components.ROW_HEIGHT * (MAX_ROWS + 1),
    )
    st.caption(
        "Area: mean mask area relative to the image. Spread: standard deviation of the mask "
        "centers, relative to the image's width (x) and height (y). A query whose masks are always "
        "in the same place has a small spread."
    )
