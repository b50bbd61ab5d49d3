"""The page's lower half: one query's masks in all layers, beside the image's ground truth."""

import pandas as pd
import streamlit as st

from apps import pictures, rows
from mpdiag.errors import RunError
from mpdiag.store import Run

MOST_IN_A_ROW = 13
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def show(runs: dict[str, Run]) -> None:
    """Let the user choose a run, an image and a query, and show its masks."""
    st.subheader("One query through the layers", anchor=False)
    choice, overview = st.columns([2, 3], gap="large")
    with choice:
        run = runs[st.selectbox("Run", list(runs))]
        try:
            chosen = _choose(run)
        except RunError as error:
            st.error(str(error), icon=":material/error:")
            return
    if chosen is None:
        return
    image_id, query = chosen
    try:
        picture = _picture(run, image_id)
        with overview:
            _show_targets(run, image_id, query, picture)
        _show_layers(run, image_id, query, picture)
    except RunError as error:
        st.error(str(error), icon=":material/error:")


def _choose(run: Run) -> tuple[int, int] | None:
    """The image and the query that the user chose; None where the run has kept no masks."""
    kept = rows.kept_queries(run)
    if kept.empty:
        st.info(
            f"{run.name} has kept no masks. Analyse with `--save-masks worst:100` to look at "
            "the masks that change most, or with `--save-masks all`.",
            icon=":material/info:",
        )
        return None
    # The first row of an image is its worst one: the order of images is that of their worst.
    images = kept.drop_duplicates("image_id").set_index("image_id")
    image_id = st.selectbox(
        "Image, worst transition first",
        images.index.tolist(),
        format_func=lambda key: f"{images.file_name[key]} · {_worst(images.loc[key])}",
    )
    queries = kept[kept.image_id == image_id].set_index("query")
    query = st.selectbox(
        "Query, worst transition first",
        queries.index.tolist(),
        format_func=lambda key: f"query {key} · {_worst(queries.loc[key])}",
    )
    return int(image_id), int(query)


def _worst(row: pd.Series) -> str:
    if pd.isna(row.worst_iou):
        return "always empty"
    return f"IoU {_percent(row.worst_iou)} at {_layer_name(int(row.worst_layer))}"
