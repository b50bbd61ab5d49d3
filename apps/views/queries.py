"""Queries: what each query does over the whole data set, which are dead, and where one fires."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from apps import activity, address, elements, palette, texts
from apps.runs import Loaded

ORDERS = {"number": "by number", "matches": "by matches"}
CLASSES = 8
EXAMPLES = 6


def show(loaded: Sequence[Loaded]) -> None:
    """Show the page."""
    elements.heading(
        "Queries", "What each query does over the whole data set, and where on the image it fires."
    )
    left, middle, right = st.columns([3, 1, 1], gap="large")
    one = address.run(loaded, box=left)
    depth = one.run.num_layers
    layer = address.select(
        "Layer", "layer", range(depth + 1), box=middle, default=depth, show=texts.layer
    )
    order = address.select("Order", "order", list(ORDERS), box=right, show=ORDERS.__getitem__)
    use = activity.use(one, layer)
    if use.empty:
        elements.empty("This run has no image. Analyse one that has: `mpdiag data check` tells.")
        return
    if one.run.header.get("part") == "piloted":
        st.caption("In the MP part a query is the number of a GT in its image.")
    _show_use(one, use, layer, order)
    query = _choose(use)
    st.header(f"Query {query} in {texts.layer(layer)}", anchor=False)
    _show_query(one, layer, query)
    st.header("All queries", anchor=False)
    _show_table(one, use, layer)


def _show_use(one: Loaded, use: pd.DataFrame, layer: int, order: str) -> None:
    dead = int((use["matches"] == 0).sum())
    images = int(one.run.summary["num_images"])
    st.markdown(
        f"**{dead} of {len(use)}** queries match no object of {images} images in "
        f"{texts.layer(layer)}. A click on a bar shows its query."
    )
    shown = use.sort_values("matches", ascending=False, kind="stable") if order != "number" else use
    color = palette.layers(one.run.num_layers + 1)[layer]
    chart = go.Figure(
        go.Bar(
            x=[str(query) for query in shown["query"]],
            y=shown["matches"].tolist(),
            marker={"color": color, "line": {"width": 0}},
            hovertemplate="query %{x}: %{y} matches<extra></extra>",
        )
    )
    chart.update_xaxes(type="category", title_text="query", nticks=25, showgrid=False)
    chart.update_yaxes(title_text="images with a match", rangemode="tozero")
    chart.update_layout(
        height=260, bargap=0.15, margin={"l": 10, "r": 10, "t": 10, "b": 10}, dragmode=False
    )
    elements.clickable(
        chart, f"{one.token} matches", lambda point: address.put(query=int(point["x"]))
    )


def _choose(use: pd.DataFrame) -> int:
    """The query of the address, else the one with most matches."""
    matches = dict(zip(use["query"], use["matches"], strict=True))
    busiest = int(use["query"].iloc[int(use["matches"].argmax())])
    return address.select(
        "Query",
        "query",
        [int(query) for query in use["query"]],
        box=st.columns([1, 3])[0],
        default=busiest,
        show=lambda query: f"{query}: {matches[query]} matches",
    )


def _show_query(one: Loaded, layer: int, query: int) -> None:
    own = activity.of_query(one, layer, query)
    matched = own[own["gt"] >= 0]
    masks, gt, classes = st.columns([1, 1, 1], gap="medium")
    with masks:
        if own["x"].isna().all() and one.run.header["schema_version"] < 3:
            elements.empty("This run is too old to tell where masks lie: analyse it again.")
        else:
            counts = activity.places(own["x"], own["y"])
            _show_places(counts, "Centres of its masks", f"{one.token} query {query} masks")
    with gt:
        counts = activity.places(matched["gt_x"], matched["gt_y"])
        _show_places(counts, "Centres of the GT it matches", f"{one.token} query {query} GT")
    with classes:
        _show_classes(one, query, matched)
    best = matched.sort_values("iou", ascending=False, kind="stable").head(EXAMPLES)
    if not best.empty:
        st.caption("Where it fits its GT best:")
        columns = st.columns(EXAMPLES)
        for column, row in zip(columns, best.to_dict("records"), strict=False):
            address.link(
                *("inspector", f"IoU {texts.percent(row['iou'])}"),
                box=column,
                icon=":material/layers:",
                help=texts.markdown(str(row["file_name"])),
                run=one.token,
                image=int(row["image_id"]),
                query=query,
            )


def _show_places(counts: activity.Counts, title: str, name: str) -> None:
    most = max(int(counts.max()), 1)
    chart = go.Figure(
        go.Heatmap(
            z=counts.tolist(),
            colorscale=palette.HEAT,
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
        margin={"l": 5, "r": 5, "t": 40, "b": 5},
        dragmode=False,
    )
    elements.figure(chart, name)


def _show_classes(one: Loaded, query: int, matched: pd.DataFrame) -> None:
    if matched.empty:
        st.caption("It matches no object in this layer.")
        return
    found = matched.groupby("label").agg(count=("iou", "size"), iou=("iou", "mean"))
    found = found.sort_values("count", ascending=False, kind="stable")
    table = pd.DataFrame(
        {
            "Class": [texts.class_name(one.run, int(label)) for label in found.index],
            "Matches": found["count"].to_numpy(),
            "IoU, %": 100 * found["iou"].to_numpy(),
        }
    )
    height = "content" if len(table) <= CLASSES else elements.ROW * (CLASSES + 1)
    elements.table(table, f"{one.token} query {query} classes", height=height)


def _show_table(one: Loaded, use: pd.DataFrame, layer: int) -> None:
    images = max(int(one.run.summary["num_images"]), 1)
    table = pd.DataFrame(
        {
            "Query": use["query"],
            "Matches": use["matches"],
            "of images, %": 100 * use["matches"] / images,
            "IoU with its GT, %": 100 * use["iou"],
            "Empty masks, %": 100 * use["empty"],
            "Area, % of the image": 100 * use["area"],
            "Spread across, %": 100 * use["spread_x"],
            "Spread down, %": 100 * use["spread_y"],
        }
    )
    elements.table(
        table, f"{one.token} queries {layer}", height=elements.ROW * min(len(table) + 1, 13)
    )
    st.caption(
        "Spread: standard deviation of the masks' centres, of the image's width and height. A "
        "query that always fires at one place has little."
    )
