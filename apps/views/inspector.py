"""Inspector: one image of one run; all layers of a query side by side, and where they fail."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import streamlit as st

from apps import address, attention, elements, filmstrip, image_charts, pictures, rows, texts
from apps.image_charts import MEASURES
from apps.rows import ImageRows
from apps.runs import Loaded
from mpdiag.errors import RunError
from mpdiag.store import Run

NO_MASKS = (
    "This run has kept no masks of {}. Analyse again with `--save-masks worst:100` for the "
    "queries whose masks change most, or with `--save-masks all`."
)


def show(loaded: Sequence[Loaded]) -> None:
    """Show the page."""
    elements.heading("Inspector", "One image: what each query predicts, from layer to layer.")
    run_box, image_box, query_box = st.columns([2, 3, 2])
    one = address.run(loaded, box=run_box)
    image = _choose_image(one, image_box)
    if image is None:
        return
    run = one.run
    query, layer = _choose_query(run, image, query_box)
    picture = _picture(run, image)
    masks = run.masks(image.image_id, query) if query in image.kept else None
    layers = image.layers(query)
    st.header(f"Query {query} through the layers", anchor=False)
    if masks is None:
        elements.empty(NO_MASKS.format(f"query {query}" if image.kept else "this image"))
    filmstrip.show(run, layers, masks, picture)
    if masks is not None:
        filmstrip.save(masks, picture, f"{one.token} image {image.image_id} query {query}")
    _show_image(one, image, picture, layers[-1].matched_gt)
    _show_heat(one, image, query, layer)
    if masks is not None:
        name = f"{one.token} image {image.image_id} query {query} layer {layer}"
        attention.show(run, image.image_id, query, layer, masks, picture, name)
    _show_flow(one, image, layers[-1].matched_gt)
    _show_failures(one, image, picture)


def _choose_image(one: Loaded, box: Any) -> ImageRows | None:
    """The image of the address, else the worst; None where the run has no image."""
    offered = rows.worst_images(one)
    if offered.empty:
        elements.empty("This run has no images. Analyse again with a data set that has some.")
        return None
    names = {
        int(row["image_id"]): f"{row['file_name']}: mIoU-L {texts.percent(row['miou_l'])}"
        for row in offered.to_dict("records")
    }
    wanted = address.number("image")
    image = rows.read(one.run, wanted) if wanted is not None and wanted < 2**63 else None
    if image is not None and image.image_id not in names:
        names = {image.image_id: image.file_name, **names}
    chosen = address.select(
        "Image",
        "image",
        list(names),
        default=int(offered["image_id"][0]),
        box=box,
        show=names.__getitem__,
        resets=("query", "layer"),
        help="The worst images; the page Images finds all others.",
    )
    return image if image is not None else rows.read(one.run, chosen)


def _choose_query(run: Run, image: ImageRows, box: Any) -> tuple[int, int]:
    """Query and layer of the address, else the worst of the image."""
    worst = {int(row["query"]): row for row in image.worst().to_dict("records")}

    def words(query: int) -> str:
        row = worst[query]
        if pd.isna(row["iou"]):
            return f"Query {query}: always empty"
        return f"Query {query}: IoU {texts.percent(row['iou'])} at {texts.layer(int(row['layer']))}"

    query = address.select(
        "Query, worst transition first",
        "query",
        list(worst),
        box=box,
        show=words,
        resets=("layer",),
        help="Those whose masks were kept come first.",
    )
    lowest = worst[query]["layer"]
    layer = address.choice(
        "layer", range(1, run.num_layers + 1), 1 if pd.isna(lowest) else int(lowest)
    )
    return query, layer


def _picture(run: Run, image: ImageRows) -> pictures.Picture:
    """The image, or where it is gone a grey field under the masks and a word about it."""
    try:
        return pictures.load(run.image(image.image_id))
    except RunError as error:
        st.warning(texts.markdown(str(error)), icon=":material/image:")
        return pictures.blank(image.height, image.width)


def _show_image(one: Loaded, image: ImageRows, picture: pictures.Picture, marked: int) -> None:
    """The image with its GT masks, and the query that each GT matches; `marked` is a GT."""
    st.header("Ground truth", anchor=False)
    plain, covered, listing = st.columns([2, 2, 3], gap="medium")
    plain.image(picture, width="stretch", output_format="JPEG")
    plain.caption(texts.markdown(image.file_name))
    if image.targets.empty:
        covered.caption("The image has no ground truth.")
        return
    masks = one.run.gt_masks(image.image_id)
    with covered:
        st.image(pictures.numbered_over(picture, masks, marked), width="stretch")
        if not len(masks):
            st.caption("The run has kept no masks of the ground truth (GT).")
        elif marked < 0:
            st.caption("Ground truth (GT). The query matches none in the last layer.")
        else:
            st.caption(f"Ground truth (GT). Red: GT {marked}, the query's in the last layer.")
    settled = [_settled(list(queries)) for queries in image.targets["matched_query"]]
    table = pd.DataFrame(
        {
            "GT": image.targets["gt"],
            "Class": [texts.class_name(one.run, label) for label in image.targets["label"]],
            "Final query": [query for query, _ in settled],
            "Since": [since for _, since in settled],
        }
    )
    with listing:
        height: int | Literal["content"] = "content" if len(table) <= 6 else 7 * elements.ROW
        elements.table(table, f"{one.token} image {image.image_id} GT", height=height)
        st.caption("Since: the layer from which on the GT stays with its final query.")


def _show_heat(one: Loaded, image: ImageRows, query: int, layer: int) -> None:
    st.header("All queries", anchor=False)
    choice, words = st.columns([2, 5], vertical_alignment="bottom")
    measure = address.select(
        "Colour", "colour", list(MEASURES), box=choice, show=MEASURES.__getitem__
    )
    words.caption(
        "A click on a cell shows its query above and its layer below. No colour: there is no such "
        "IoU, since masks are empty or nothing matches."
    )

    def go_to(point: Mapping[str, Any]) -> None:
        address.put(query=int(point["x"]), layer=max(int(point["y"]), 1))

    elements.clickable(
        image_charts.heat_map(image.queries, measure, query, layer),
        f"{one.token} image {image.image_id} {measure}",
        go_to,
    )


def _show_flow(one: Loaded, image: ImageRows, marked: int) -> None:
    st.header("Matching", anchor=False)
    matched = [max(queries) >= 0 for queries in image.targets["matched_query"]]
    targets = image.targets[matched]
    if targets.empty:
        elements.empty("No object of this image matches a query.")
        return
    names = [texts.class_name(one.run, label) for label in targets["label"]]
    elements.figure(
        image_charts.flow(targets, names, marked), f"{one.token} image {image.image_id} matching"
    )
    st.caption(
        "Each band is a GT, from its name over the query that it matches in each layer. Queries "
        "have rows: a band that changes its row changes its query."
        + (
            f" The first {image_charts.MOST_FLOWS} of {len(targets)} GT are shown."
            if len(targets) > image_charts.MOST_FLOWS
            else ""
        )
    )


def _show_failures(one: Loaded, image: ImageRows, picture: pictures.Picture) -> None:
    st.header("Failure pairs", anchor=False)
    if not image.kept:
        elements.empty(NO_MASKS.format("this image"))
        return
    pairs = filmstrip.show_pairs(one.run, image, picture)
    if not pairs:
        elements.empty(
            f"No mask of the kept queries has an IoU below {rows.PAIR_IOU:.0%} with the one of "
            "the layer before."
        )
        return
    for box, (query, layer) in zip(st.columns(filmstrip.PAIRS, gap="medium"), pairs, strict=False):
        address.link(
            "inspector",
            f"Show query {query}",
            box=box,
            run=one.token,
            image=image.image_id,
            query=query,
            layer=layer,
        )
    st.caption(
        "As in the paper's Figure 1: predictions of one query in adjacent layers, those that "
        "differ in most cells."
    )


def _settled(queries: list[int]) -> tuple[str, str]:
    """The final query of a GT, and the layer from which on it is that; dashes for none."""
    if queries[-1] < 0:
        return "none", ""
    since = len(queries) - 1
    while since and queries[since - 1] == queries[-1]:
        since -= 1
    return str(queries[-1]), texts.layer(since)
