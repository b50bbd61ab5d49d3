"""Transitions: what happens to masks from layer to layer, how often, and examples of each class."""

from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from apps import address, elements, moves, palette, pictures, texts
from apps.runs import Loaded
from mpdiag.store.transitions import TRANSITIONS

EXAMPLES = 6
IN_A_ROW = 3


def show(loaded: Sequence[Loaded]) -> None:
    """Show the page."""
    elements.heading(
        "Transitions", "What happens to a query's mask from one layer to the next, and how often."
    )
    left, right = st.columns([3, 2], gap="large", vertical_alignment="bottom")
    one = address.run(loaded, box=left)
    kept = address.toggle(
        "Also masks that stay the same",
        "kept",
        default=False,
        box=right,
        help="Kept masks are most, and hide the others.",
    )
    table = moves.counts(one)
    if table.empty:
        elements.empty("This run has no transition: it has no image, or a single layer.")
        return
    shown = [kind for kind in TRANSITIONS if kept or kind != "kept"]
    _show_shares(one, table, shown)
    _show_tables(one, table)
    _show_examples(one, table)


def _show_shares(one: Loaded, table: pd.DataFrame, kinds: Sequence[str]) -> None:
    chart = go.Figure()
    for kind in kinds:
        rows = table[table["transition"] == kind]
        chart.add_bar(
            x=rows["layer"].tolist(),
            y=(100 * rows["share"]).tolist(),
            name=kind,
            customdata=[[kind, count] for count in rows["count"].tolist()],
            marker={"color": palette.TRANSITIONS[kind], "line": {"width": 0}},
            hovertemplate="%{customdata[0]} in layer %{x}: %{y:.1f} %"
            " (%{customdata[1]})<extra></extra>",
        )
    chart.update_xaxes(title_text="into layer", dtick=1, showgrid=False, zeroline=False)
    chart.update_yaxes(title_text="of all transitions", ticksuffix=" %", rangemode="tozero")
    chart.update_layout(
        barmode="stack",
        height=380,
        bargap=0.25,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"traceorder": "normal", "orientation": "h", "yanchor": "top", "y": -0.2, "x": 0},
        dragmode=False,
    )
    elements.clickable(
        chart,
        f"{one.token} transitions",
        lambda point: address.put(transition=point["customdata"][0], layer=int(point["x"])),
    )
    st.caption("A click on a part of a bar shows examples of it below.")


def _show_tables(one: Loaded, table: pd.DataFrame) -> None:
    share, gain = st.tabs(["How often, %", "What undoing them gains, points of Util"])
    for tab, column, precision in ((share, "share", 1), (gain, "util_gain", 2)):
        wide = 100 * table.pivot(index="transition", columns="layer", values=column)
        wide = wide.reindex(list(TRANSITIONS)).rename(columns=str)
        wide.insert(0, "What it means", [TRANSITIONS[kind] for kind in wide.index])
        with tab:
            elements.table(
                wide.rename_axis("Transition").reset_index(),
                f"{one.token} transitions {column}",
                precision=precision,
                column_config={name: {"width": 60} for name in wide.columns[1:]},
            )
    gain.caption(
        "By how much Util of the layer would rise, had the queries of the class kept the match of "
        "the layer before. Below 0 where the transition is for the better."
    )


def _show_examples(one: Loaded, table: pd.DataFrame) -> None:
    st.header("Examples", anchor=False)
    left, right, _ = st.columns([2, 1, 3])
    totals = table.groupby("transition")["count"].sum()
    kind = address.select(
        "Transition",
        "transition",
        list(TRANSITIONS),
        box=left,
        default="switched",
        show=lambda kind: f"{kind}: {int(totals[kind]):,}",
    )
    of_kind = table[table["transition"] == kind]
    layer = address.select(
        "Into layer",
        "layer",
        of_kind["layer"].tolist(),
        box=right,
        default=int(of_kind["layer"].iloc[int(of_kind["count"].argmax())]),
        show=texts.layer,
    )
    st.caption(f"{kind.capitalize()}: {TRANSITIONS[kind]}.")
    found = moves.examples(one, kind, layer, EXAMPLES)
    if found.empty:
        elements.empty(
            "There is none of this kind in this layer. Choose another, or another layer."
        )
        return
    for start in range(0, len(found), IN_A_ROW):
        rows = found.iloc[start : start + IN_A_ROW].to_dict("records")
        for box, row in zip(st.columns(IN_A_ROW, gap="medium"), rows, strict=False):
            with box:
                _show_example(one, row, layer)
    if not found["kept"].all():
        st.caption(
            "A transition without pictures is of a query whose masks the run has not kept; "
            "`mpdiag analyze --save-masks all` keeps all."
        )


def _show_example(one: Loaded, row: dict[Hashable, Any], layer: int) -> None:
    image_id, query = int(row["image_id"]), int(row["query"])
    if row["kept"]:
        masks = one.run.masks(image_id, query)
        picture = pictures.of_run(one.run, image_id, masks.shape[1:])
        pair = [pictures.red_over(picture, masks[i]) for i in (layer - 1, layer)]
        st.image(pictures.row(pair), width="stretch")
    fits = [_fit(row[f"gt_{when}"], row[f"fit_{when}"]) for when in ("before", "after")]
    st.caption(
        f"{texts.layer(layer - 1)} and {texts.layer(layer)}: IoU {texts.percent(row['iou'])}. "
        f"With the best GT: {fits[0]}, then {fits[1]}."
    )
    address.link(
        "inspector",
        f"{texts.markdown(str(row['file_name']))}, query {query}",
        icon=":material/layers:",
        run=one.token,
        image=image_id,
        query=query,
    )


def _fit(gt: int, iou: float) -> str:
    return "none" if gt < 0 else f"GT {gt} {texts.percent(iou)}"
