"""The page's lower half: one query's masks in all layers, beside the image's ground truth."""

import re
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import pandas as pd
import streamlit as st

from apps import pictures, rows
from apps.rows import Layer
from mpdiag.errors import RunError
from mpdiag.store import Run

TILES_IN_A_ROW = 13
ROW = 30
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def show(names: Sequence[str], runs: Sequence[Run]) -> None:
    """Let the user choose a run, an image and a query, and show the query's masks."""
    st.header("One query through the layers", anchor=False)
    run = runs[st.selectbox("Run", range(len(runs)), format_func=lambda key: names[key])]
    choice, overview = st.columns([2, 3], gap="large")
    try:
        with choice:
            chosen = _choose(run)
        if chosen is None:
            return
        image_id, query = chosen
        picture = _picture(run, image_id)
        layers = rows.layers_of(run, image_id, query)
        with overview:
            _show_targets(run, image_id, layers[-1].matched_gt, picture)
        _show_masks(run, image_id, query, layers, picture)
    except RunError as error:
        show_error(error)


def show_error(error: RunError) -> None:
    """Show what the user can mend."""
    st.error(_plain(str(error)), icon=":material/error:")


def _choose(run: Run) -> tuple[int, int] | None:
    """The image and the query that the user chose; None where the run has kept no masks."""
    kept = _kept_queries(run)
    if kept.empty:
        st.info(
            "This run has kept no masks. Analyse again with `--save-masks worst:100` for the "
            "queries whose masks change most, or with `--save-masks all`.",
            icon=":material/info:",
        )
        return None
    # An image's first row is its worst, so this is the order of the images' worst queries.
    images = {
        row["image_id"]: f"{row['file_name']}: {_worst(row)}"
        for row in kept.drop_duplicates("image_id").to_dict("records")
    }
    image_id = st.selectbox(
        "Image, worst transition first", list(images), format_func=lambda key: images[key]
    )
    queries = {
        row["query"]: f"Query {row['query']}: {_worst(row)}"
        for row in kept[kept["image_id"] == image_id].to_dict("records")
    }
    query = st.selectbox(
        "Query, worst transition first",
        list(queries),
        format_func=lambda key: queries[key],
        help="Only the queries whose masks were kept.",
    )
    return int(image_id), int(query)


# A run with all masks has many; its header says when it was made.
@st.cache_resource(
    show_spinner=False, max_entries=16, hash_funcs={Run: lambda run: (run.path, run.header)}
)
def _kept_queries(run: Run) -> pd.DataFrame:
    return rows.kept_queries(run)


def _picture(run: Run, image_id: int) -> pictures.Picture:
    """The image, or where it is gone a grey field under the masks and a word about it."""
    try:
        return pictures.load(run.image(image_id))
    except RunError as error:
        st.warning(_plain(str(error)), icon=":material/image:")
        return pictures.blank(*rows.size_of(run, image_id))


def _show_targets(run: Run, image_id: int, marked: int, picture: pictures.Picture) -> None:
    """The image with its GT masks, and the query that each GT matches; `marked` is a GT."""
    image, listing = st.columns(2, gap="medium")
    targets = rows.targets_of(run, image_id)
    masks = run.gt_masks(image_id)
    with image:
        st.image(pictures.numbered_over(picture, masks, marked), width="stretch")
        if targets.empty:
            st.caption("The image; it has no ground truth.")
        elif marked < 0:
            st.caption("Ground truth (GT). The query matches none in the last layer.")
        else:
            st.caption(f"Ground truth (GT). Red: GT {marked}, the query's in the last layer.")
    if targets.empty:
        return
    settled = [_settled(list(queries)) for queries in targets["matched_query"]]
    table = pd.DataFrame(
        {
            "GT": targets["gt"],
            "Class": [_class_name(run, label) for label in targets["label"]],
            "Final query": [query for query, _ in settled],
            "Since": [since for _, since in settled],
        }
    )
    with listing:
        height: int | Literal["content"] = "content" if len(table) <= 7 else 8 * ROW
        st.dataframe(table, hide_index=True, row_height=ROW, height=height)
        st.caption("Since: the layer from which on the GT stays with its final query.")


def _show_masks(
    run: Run, image_id: int, query: int, layers: Sequence[Layer], picture: pictures.Picture
) -> None:
    masks = run.masks(image_id, query)
    worst = min((one.iou_prev for one in layers if one.iou_prev is not None), default=None)
    for start in range(0, len(layers), TILES_IN_A_ROW):
        tiles = st.columns(min(len(layers), TILES_IN_A_ROW), gap="xsmall")
        for tile, layer in zip(tiles, layers[start:], strict=False):
            before = layers[layer.index - 1] if layer.index else None
            with tile:
                st.image(pictures.red_over(picture, masks[layer.index]), width="stretch")
                st.caption(_describe(run, layer, before, worst))
    st.caption(
        "Under each mask: its IoU with the mask of the layer before (bold: the lowest), the GT "
        "that it matches (⇄: another than in the layer before), the predicted class and its score."
    )


def _describe(run: Run, layer: Layer, before: Layer | None, worst: float | None) -> str:
    """The lines under a mask, as Markdown."""
    if before is None:
        iou = "first"
    elif layer.iou_prev is None:
        iou = "both empty"
    else:
        iou = f"IoU {_percent(layer.iou_prev)}"
        iou = f"**{iou}**" if layer.iou_prev == worst else iou
    gt = "no GT" if layer.matched_gt < 0 else f"GT {layer.matched_gt}"
    if layer.matched_label is not None:
        gt += f" {_plain(_class_name(run, layer.matched_label))}"
    if before is not None and before.matched_gt != layer.matched_gt:
        gt = f"⇄ {gt}"
    predicted = f"{_plain(_class_name(run, layer.label))} {layer.score:.2f}"
    return "  \n".join([f"**{_symbol(layer.index)}**", iou, gt, predicted])


def _settled(queries: list[int]) -> tuple[str, str]:
    """The final query of a GT, and the layer from which on it is that; dashes for none."""
    if queries[-1] < 0:
        return "none", ""
    since = len(queries) - 1
    while since and queries[since - 1] == queries[-1]:
        since -= 1
    return str(queries[-1]), _symbol(since)


def _worst(row: dict[Hashable, Any]) -> str:
    if pd.isna(row["worst_iou"]):
        return "always empty"
    return f"IoU {_percent(row['worst_iou'])} at {_symbol(int(row['worst_layer']))}"


def _class_name(run: Run, label: int) -> str:
    classes = run.header.get("classes") or []
    return str(classes[label]["name"]) if label < len(classes) else f"class {label}"


def _symbol(layer: int) -> str:
    return "M" + str(layer).translate(SUPERSCRIPTS)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _plain(text: str) -> str:
    """Markdown that shows `text` as it is; names from files may hold anything."""
    return re.sub(r"([^\w\s])", r"\\\1", text, flags=re.ASCII)
