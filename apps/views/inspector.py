"""Inspector: one image of one run; all layers of a query side by side, and where they fail."""

from collections.abc import Hashable, Sequence
from typing import Any, Literal

import pandas as pd
import streamlit as st

from apps import address, elements, filmstrip, pictures, rows, texts
from apps.runs import Loaded, cached
from mpdiag.errors import RunError
from mpdiag.store import Run


def show(loaded: Sequence[Loaded]) -> None:
    """Show the page."""
    elements.heading("Inspector", "One image: what each query predicts, from layer to layer.")
    choice, overview = st.columns([2, 3], gap="large")
    with choice:
        one = address.run(loaded)
        chosen = _choose(one)
    if chosen is None:
        return
    image_id, query = chosen
    run = one.run
    picture = _picture(run, image_id)
    layers = rows.layers_of(run, image_id, query)
    with overview:
        _show_targets(run, image_id, layers[-1].matched_gt, picture)
    st.header(f"Query {query} through the layers", anchor=False)
    filmstrip.show(run, layers, run.masks(image_id, query), picture)


def _choose(one: Loaded) -> tuple[int, int] | None:
    """The image and the query that the user chose; None where the run has kept no masks."""
    kept = _kept_queries(one)
    if kept.empty:
        elements.empty(
            "This run has kept no masks. Analyse again with `--save-masks worst:100` for the "
            "queries whose masks change most, or with `--save-masks all`."
        )
        return None
    # An image's first row is its worst, so this is the order of the images' worst queries.
    images = {
        int(row["image_id"]): f"{row['file_name']}: {_worst(row)}"
        for row in kept.drop_duplicates("image_id").to_dict("records")
    }
    image_id = address.select(
        "Image, worst transition first",
        "image",
        list(images),
        show=images.__getitem__,
        resets=("query",),
    )
    queries = {
        int(row["query"]): f"Query {row['query']}: {_worst(row)}"
        for row in kept[kept["image_id"] == image_id].to_dict("records")
    }
    query = address.select(
        "Query, worst transition first",
        "query",
        list(queries),
        show=queries.__getitem__,
        help="Only the queries whose masks were kept.",
    )
    return image_id, query


@cached
def _kept_queries(one: Loaded) -> pd.DataFrame:
    return rows.kept_queries(one.run)


def _picture(run: Run, image_id: int) -> pictures.Picture:
    """The image, or where it is gone a grey field under the masks and a word about it."""
    try:
        return pictures.load(run.image(image_id))
    except RunError as error:
        st.warning(texts.markdown(str(error)), icon=":material/image:")
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
            "Class": [texts.class_name(run, label) for label in targets["label"]],
            "Final query": [query for query, _ in settled],
            "Since": [since for _, since in settled],
        }
    )
    with listing:
        height: int | Literal["content"] = "content" if len(table) <= 7 else 8 * elements.ROW
        elements.table(table, f"{run.name} image {image_id} GT", height=height)
        st.caption("Since: the layer from which on the GT stays with its final query.")


def _settled(queries: list[int]) -> tuple[str, str]:
    """The final query of a GT, and the layer from which on it is that; dashes for none."""
    if queries[-1] < 0:
        return "none", ""
    since = len(queries) - 1
    while since and queries[since - 1] == queries[-1]:
        since -= 1
    return str(queries[-1]), texts.layer(since)


def _worst(row: dict[Hashable, Any]) -> str:
    if pd.isna(row["worst_iou"]):
        return "always empty"
    return f"IoU {texts.percent(row['worst_iou'])} at {texts.layer(int(row['worst_layer']))}"
