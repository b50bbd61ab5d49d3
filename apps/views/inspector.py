"""Inspector: one image of a run, with all layers of a query side by side."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from apps import attention, components, drawing, filmstrip, image_charts, url_state
from apps.finding_links import show_finding_of_url
from apps.formatting import escape_markdown, format_percent
from apps.image_charts import HEATMAP_VALUES
from apps.image_queries import RunImage, read_image, worst_images
from apps.image_select import select_image
from apps.runs import LoadedRun
from mpdiag.errors import RunError
from mpdiag.store import Run
from reports.mask_images import RgbImage, load_image, placeholder
from reports.mask_pairs import draw_pair, lowest_iou_pairs
from reports.names import class_name, layer_symbol

NUM_PAIRS = 4
MAX_QUERIES = 200
"""Number of queries in the heatmap; narrower cells are hard to click, and more are slow."""
MATCHED_FIRST = -1
MAX_ROWS = 8
"""Number of GT in the table before it scrolls."""
NO_MASKS = (
    "The masks of {} are not saved in this run. Run the analysis again with "
    "`--save-masks worst:100` (queries whose masks change most) or `--save-masks all`."
)


def render(runs: Sequence[LoadedRun]) -> None:
    """Render the page."""
    components.page_header("Inspector", "The predictions of one image in all layers.")
    with st.container(key="selection"):
        run_column, image_column, query_column = st.columns([2, 3, 2])
    loaded = url_state.select_run(runs, container=run_column)
    image = _select_image(loaded, image_column)
    if image is None:
        return
    run = loaded.run
    if image.queries.empty:
        components.show_empty("The MP part has no queries in an image without GT. Select another.")
        return
    query, layer = _select_query(run, image, query_column)
    show_finding_of_url(loaded, image.image_id)
    rgb_image = _load_image(run, image)
    masks = run.masks(image.image_id, query) if query in image.saved else None
    layers = image.layers(query)
    st.header(f"Query {query} in all layers", anchor=False)
    if masks is None:
        components.show_empty(NO_MASKS.format(f"query {query}" if image.saved else "this image"))
    filmstrip.show_filmstrip(run, layers, masks, rgb_image)
    name = f"{loaded.slug} image {image.image_id}"
    if masks is not None:
        filmstrip.download_filmstrip(masks, rgb_image, f"{name} query {query}")
    final_gt = layers[-1].matched_gt
    _show_ground_truth(loaded, image, rgb_image, final_gt)
    _show_all_queries(loaded, image, query, layer)
    if masks is not None and layer is not None:
        attention.show_attention(
            run,
            image.image_id,
            query,
            layer,
            masks,
            rgb_image,
            f"{name} query {query} layer {layer}",
        )
    _show_matching(loaded, image, final_gt)
    _show_largest_changes(loaded, image)


def _select_image(loaded: LoadedRun, container: DeltaGenerator) -> RunImage | None:
    """Return the image of the URL, else the worst one; None if the run has no images."""
    worst = worst_images(loaded)
    if worst.empty:
        components.show_empty(components.NO_IMAGES)
        return None
    names = {
        int(row["image_id"]): f"{row['file_name']}: mIoU-L {format_percent(row['miou_l'])}"
        for row in worst.to_dict("records")
    }
    selected = select_image(
        "Image",
        loaded,
        names,
        container,
        resets=("query", "layer"),
        help="The images whose masks change most. The Images page lists all images.",
    )
    return read_image(loaded.run, selected)


def _select_query(run: Run, image: RunImage, container: DeltaGenerator) -> tuple[int, int | None]:
    """Return query and layer of the URL, else those with the lowest IoU; no layer if L is 0."""
    ranked = {int(row["query"]): row for row in image.rank_queries().to_dict("records")}

    def label(query: int) -> str:
        row = ranked[query]
        if run.num_layers == 0:
            return f"Query {query}"
        if pd.isna(row["iou"]):
            return f"Query {query}: {'always empty' if row['finite'] else 'not finite'}"
        return (
            f"Query {query}: IoU {format_percent(row['iou'])} at {layer_symbol(int(row['layer']))}"
        )

    query = url_state.selectbox(
        "Query, lowest IoU first",
        "query",
        list(ranked),
        container=container,
        format_func=label,
        resets=("layer",),
        help="Lowest IoU of masks in adjacent layers. Queries with saved masks come first.",
    )
    if run.num_layers == 0:
        return query, None
    lowest = ranked[query]["layer"]
    layer = url_state.get_option(
        "layer", range(1, run.num_layers + 1), 1 if pd.isna(lowest) else int(lowest)
    )
    return query, layer


def _load_image(run: Run, image: RunImage) -> RgbImage:
    """Load the image; if it is missing, show a warning and return a placeholder."""
    try:
        return load_image(run.image(image.image_id))
    except RunError as error:
        st.warning(escape_markdown(str(error)), icon=":material/image:")
        return placeholder(image.height, image.width)


def _show_ground_truth(
    loaded: LoadedRun, image: RunImage, rgb_image: RgbImage, highlighted: int
) -> None:
    """Show the image, its GT masks (`highlighted` in red) and the matched query of each GT."""
    st.header("Ground truth", anchor=False)
    left, middle, right = st.columns([2, 2, 3], gap="medium")
    left.image(rgb_image, width="stretch", output_format="JPEG", alt=image.file_name)
    left.caption(escape_markdown(image.file_name))
    if image.targets.empty:
        middle.caption("This image has no ground truth (GT).")
        return
    masks = loaded.run.gt_masks(image.image_id)
    with middle:
        drawn = drawing.overlay_numbered_masks(rgb_image, masks, highlighted)
        st.image(drawn, width="stretch", alt="GT masks with their numbers")
        st.caption(_describe_gt_masks(len(masks), highlighted))
    matches = [_final_match(list(queries)) for queries in image.targets["matched_query"]]
    classes = {"Class": [class_name(loaded.run, label) for label in image.targets["label"]]}
    table = pd.DataFrame(
        {
            "GT": image.targets["gt"],
            **classes,
            "Final query": [query for query, _ in matches],
            "Since": [since for _, since in matches],
        }
    )
    with right:
        height: int | Literal["content"] = (
            "content" if len(table) <= MAX_ROWS else round((MAX_ROWS + 1.5) * components.ROW_HEIGHT)
        )
        name = f"{loaded.slug} image {image.image_id} GT"
        components.table(
            table, name, "GT", height=height, column_config=components.name_column(classes)
        )
        st.caption("Since: first layer after which the matched query does not change.")


def _describe_gt_masks(count: int, highlighted: int) -> str:
    if not count:
        return "The GT masks are not saved in this run."
    red = f"Red: GT {highlighted}, the query's match in the last layer."
    text = "The query matches no GT in the last layer." if highlighted < 0 else red
    most = drawing.MAX_NUMBERS
    limit = f" Only the first {most} of {count} have numbers." if count > most else ""
    return f"GT masks. {text}{limit}"


def _show_all_queries(loaded: LoadedRun, image: RunImage, query: int, layer: int | None) -> None:
    st.header("All queries", anchor=False)
    can_show_all = len(image.numbers) <= MAX_QUERIES
    with st.container(key="selection of queries"):
        left, *middle, right = st.columns(
            [2, 3] if can_show_all else [2, 2, 3], vertical_alignment="bottom"
        )
    value = url_state.selectbox(
        "Color",
        "color",
        list(HEATMAP_VALUES),
        container=left,
        format_func=HEATMAP_VALUES.__getitem__,
    )
    shown = image.numbers if can_show_all else _select_columns(image, query, middle[0])
    hidden = len(image.numbers) - len(shown)
    right.caption(
        "Click a cell to select its query and layer. Cells without a value are blank: the masks "
        "are empty or not finite, or the query has no match."
        + (f" **{hidden:,} queries are hidden.**" if hidden else "")
    )

    def select(point: Mapping[str, Any]) -> None:
        url_state.update(query=int(point["x"]), layer=max(int(point["y"]), 1))

    components.clickable_figure(
        image_charts.query_heatmap(
            image.queries[image.queries["query"].isin(shown)], value, query, layer
        ),
        f"{loaded.slug} image {image.image_id} {value}",
        select,
    )


def _select_columns(image: RunImage, query: int, container: DeltaGenerator) -> list[int]:
    """Return up to MAX_QUERIES selected queries to show in the heatmap, and `query`."""
    numbers = image.numbers
    first = url_state.selectbox(
        "Queries",
        "first",
        [MATCHED_FIRST, *range(0, len(numbers), MAX_QUERIES)],
        container=container,
        format_func=lambda start: (
            f"{MAX_QUERIES}: matched, then highest scores"
            if start == MATCHED_FIRST
            else f"{numbers[start]} to {numbers[start : start + MAX_QUERIES][-1]}"
        ),
    )
    if first == MATCHED_FIRST:
        return image.first_queries(MAX_QUERIES, query)
    return sorted({*numbers[first : first + MAX_QUERIES], query})


def _show_matching(loaded: LoadedRun, image: RunImage, highlighted: int) -> None:
    st.header("Matching", anchor=False)
    is_matched = [max(queries) >= 0 for queries in image.targets["matched_query"]]
    targets = image.targets[is_matched]
    if targets.empty:
        components.show_empty("No GT of this image matches a query.")
        return
    names = [class_name(loaded.run, label) for label in targets["label"]]
    components.figure(
        image_charts.matching_chart(targets, names, highlighted),
        f"{loaded.slug} image {image.image_id} matching",
    )
    st.caption(
        "Each line is a GT and connects the queries that it matches. A line that changes its row "
        f"changes its query.{image_charts.describe_limit(len(targets))}"
    )


def _show_largest_changes(loaded: LoadedRun, image: RunImage) -> None:
    st.header("Largest mask changes", anchor=False)
    if not image.saved:
        components.show_empty(NO_MASKS.format("this image"))
        return
    pairs = lowest_iou_pairs(loaded.run, NUM_PAIRS, image.image_id)
    if not pairs:
        components.show_empty("No query with saved masks matches a GT in the last layer.")
        return
    for column, pair in zip(st.columns(NUM_PAIRS, gap="medium"), pairs, strict=False):
        drawn = draw_pair(loaded.run, pair.image_id, pair.query, pair.layer)
        layers = f"{layer_symbol(pair.layer - 1)} and {layer_symbol(pair.layer)}"
        alt = f"Masks of query {pair.query} in {layers}"
        column.image(drawn, width="stretch", output_format="JPEG", alt=alt)
        column.caption(f"Query {pair.query}, {layers}: IoU {format_percent(pair.iou)}")
        url_state.page_link(
            "inspector",
            f"Show query {pair.query}",
            container=column,
            run=loaded.slug,
            image=image.image_id,
            query=pair.query,
            layer=pair.layer,
        )
    st.caption(
        "Masks of one query in adjacent layers, lowest IoU first, as in the paper's Figure 1. Only "
        "queries that match a GT in the last layer."
    )


def _final_match(queries: list[int]) -> tuple[str, str]:
    """Return a GT's query in the last layer, and the first layer since which it is the same."""
    if queries[-1] < 0:
        return "none", ""
    since = len(queries) - 1
    while since and queries[since - 1] == queries[-1]:
        since -= 1
    return str(queries[-1]), layer_symbol(since)
