"""Transitions: how masks change from layer to layer, how often, and examples of each class."""

from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from apps import components, transition_queries, url_state
from apps.formatting import escape_markdown, format_percent
from apps.runs import LoadedRun
from mpdiag.store.transitions import TRANSITIONS
from reports import palette
from reports.mask_pairs import draw_pair
from reports.names import layer_symbol

NUM_EXAMPLES = 6
COLUMNS = 3


def render(runs: Sequence[LoadedRun]) -> None:
    """Render the page."""
    components.page_header(
        "Transitions", "How the mask of a query changes from one layer to the next, and how often."
    )
    left, right = st.columns([3, 2], gap="large", vertical_alignment="bottom")
    loaded = url_state.select_run(runs, container=left)
    with_kept = url_state.toggle(
        "Show kept masks",
        "kept",
        default=False,
        container=right,
        help="Most masks are kept, which makes the other classes hard to see.",
    )
    table = transition_queries.transition_counts(loaded)
    if table.empty:
        components.show_empty("This run has no transitions: it has no images or only one layer.")
        return
    classes = [name for name in TRANSITIONS if with_kept or name != "kept"]
    _show_shares(loaded, table, classes)
    _show_tables(loaded, table)
    _show_examples(loaded, table)


def _show_shares(loaded: LoadedRun, table: pd.DataFrame, classes: Sequence[str]) -> None:
    chart = go.Figure()
    for name in classes:
        rows = table[table["transition"] == name]
        chart.add_bar(
            x=rows["layer"].tolist(),
            y=(100 * rows["share"]).tolist(),
            name=name,
            customdata=[[name, count] for count in rows["count"].tolist()],
            marker={"color": palette.TRANSITION_COLORS[name], "line": {"width": 0}},
            hovertemplate="%{customdata[0]} in layer %{x}: %{y:.1f}%"
            " (%{customdata[1]})<extra></extra>",
        )
    chart.update_xaxes(title_text="into layer", dtick=1, showgrid=False, zeroline=False)
    chart.update_yaxes(title_text="share of transitions", ticksuffix="%", rangemode="tozero")
    chart.update_layout(
        barmode="stack",
        height=380,
        bargap=0.25,
        legend={"traceorder": "normal", "orientation": "h", "yanchor": "top", "y": -0.2, "x": 0},
        dragmode=False,
    )
    components.clickable_figure(
        chart,
        f"{loaded.slug} transitions",
        lambda point: url_state.update(transition=point["customdata"][0], layer=int(point["x"])),
    )
    st.caption("Click a bar segment to show examples below.")


def _show_tables(loaded: LoadedRun, table: pd.DataFrame) -> None:
    share, gain = st.tabs(["Share, %", "Util gained if undone, points"])
    for tab, column, precision in ((share, "share", 1), (gain, "util_gain", 2)):
        by_layer = 100 * table.pivot(index="transition", columns="layer", values=column)
        by_layer = by_layer.reindex(list(TRANSITIONS)).rename(columns=str)
        by_layer.insert(0, "Meaning", [TRANSITIONS[name] for name in by_layer.index])
        with tab:
            components.table(
                by_layer.rename_axis("Transition").reset_index(),
                f"{loaded.slug} transitions {column}",
                "shares" if column == "share" else "Util gained",
                precision=precision,
                column_config={name: {"width": 60} for name in by_layer.columns[1:]},
            )
    gain.caption(
        "Change of the layer's Util if the queries of the class had kept the match of the layer "
        "before. A negative value means that the transition helps."
    )


def _show_examples(loaded: LoadedRun, table: pd.DataFrame) -> None:
    st.header("Examples", anchor=False)
    left, right, _ = st.columns([2, 1, 3])
    totals = table.groupby("transition")["count"].sum()
    transition = url_state.selectbox(
        "Transition",
        "transition",
        list(TRANSITIONS),
        container=left,
        default="switched",
        format_func=lambda name: f"{name}: {int(totals[name]):,}",
    )
    rows = table[table["transition"] == transition]
    layer = url_state.selectbox(
        "Into layer",
        "layer",
        rows["layer"].tolist(),
        container=right,
        default=int(rows["layer"].iloc[int(rows["count"].argmax())]),
        format_func=layer_symbol,
    )
    st.caption(f"{transition.capitalize()}: {TRANSITIONS[transition]}.")
    examples = transition_queries.transition_examples(loaded, transition, layer, NUM_EXAMPLES)
    if examples.empty:
        components.show_empty(
            "No transition of this class in this layer. Select another class or layer."
        )
        return
    for start in range(0, len(examples), COLUMNS):
        records = examples.iloc[start : start + COLUMNS].to_dict("records")
        for column, row in zip(st.columns(COLUMNS, gap="medium"), records, strict=False):
            with column:
                _show_example(loaded, row, layer)
    if not examples["saved"].all():
        st.caption(
            "Examples without images: the masks of the query are not saved. To save all masks, run "
            "`mpdiag analyze --save-masks all`."
        )


def _show_example(loaded: LoadedRun, row: dict[Hashable, Any], layer: int) -> None:
    image_id, query = int(row["image_id"]), int(row["query"])
    if row["saved"]:
        layers = f"{layer_symbol(layer - 1)} and {layer_symbol(layer)}"
        alt = f"{row['file_name']}: masks of query {query} in {layers}"
        st.image(draw_pair(loaded.run, image_id, query, layer), width="stretch", alt=alt)
    before, after = (
        _best_gt(row[f"gt_{when}"], row[f"gt_iou_{when}"]) for when in ("before", "after")
    )
    st.caption(
        f"{layer_symbol(layer - 1)} and {layer_symbol(layer)}: IoU {format_percent(row['iou'])}. "
        f"Best GT: {before}, then {after}."
    )
    url_state.page_link(
        "inspector",
        f"{escape_markdown(str(row['file_name']))}, query {query}",
        icon=":material/layers:",
        run=loaded.slug,
        image=image_id,
        query=query,
        layer=layer,
    )


def _best_gt(gt: int, iou: float) -> str:
    return "none" if gt < 0 else f"{gt} (IoU {format_percent(iou)})"
