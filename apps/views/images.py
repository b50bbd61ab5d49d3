"""Images: a gallery of a run's images with filters; each image links to the Inspector."""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from apps import components, drawing, gallery, url_state
from apps.formatting import escape_markdown, format_percent
from apps.gallery import ALL_CHANGES, PERCENT, SORT_ORDERS, ImageFilter
from apps.runs import LoadedRun, cached
from mpdiag.errors import RunError
from mpdiag.store.transitions import TRANSITIONS
from reports.formatting import to_csv
from reports.names import class_names

COLUMNS, ROWS = 6, 4
PAGE_SIZE = COLUMNS * ROWS
MAX_CSV_ROWS = 100_000
MAX_PAGE = 10**9
RESETS = ("page",)


def render(runs: Sequence[LoadedRun]) -> None:
    """Render the page."""
    components.page_header("Images", "Filter and sort the images of a run by metric and content.")
    loaded, filters = _select_filters(runs)
    page = min(max(url_state.get_int("page") or 1, 1), MAX_PAGE)
    images = gallery.find_images(loaded, filters, PAGE_SIZE, PAGE_SIZE * (page - 1))
    if images.empty and page > 1:
        page = 1
        images = gallery.find_images(loaded, filters, PAGE_SIZE)
    if images.empty:
        _show_no_images(loaded)
        return
    total = int(images["total"][0])
    _show_summary(loaded, filters, page, total)
    cards = images.to_dict("records")
    with st.container(key="gallery"):
        for start in range(0, len(cards), COLUMNS):
            for column, row in zip(st.columns(COLUMNS, gap="small"), cards[start:], strict=False):
                with column:
                    _show_card(loaded, row, filters)
    url_state.pagination("page", page, math.ceil(total / PAGE_SIZE))


def _select_filters(runs: Sequence[LoadedRun]) -> tuple[LoadedRun, ImageFilter]:
    run, order, layer, transition = st.columns([3, 2, 2, 2])
    loaded = url_state.select_run(runs, container=run)
    selected_order = url_state.selectbox(
        "Sort by",
        "sort",
        list(SORT_ORDERS),
        container=order,
        format_func=lambda key: SORT_ORDERS[key][0],
        resets=RESETS,
    )
    selected_layer = url_state.selectbox(
        "Layer",
        "layer",
        range(loaded.run.num_layers + 1),
        container=layer,
        format_func=lambda index: f"{index}" if index else "all from 1",
        resets=RESETS,
        help="Layer of Util, mIoU-L and transitions.",
    )
    # Runs of schema version 1 count merged and split masks as other transitions.
    has_classes = loaded.run.has_column("queries", "second_coverage")
    selected_transition = url_state.selectbox(
        "Transitions",
        "transition",
        [ALL_CHANGES, *(TRANSITIONS if has_classes else ())],
        container=transition,
        resets=RESETS,
        help="  \n".join(f"**{name}**: {meaning}" for name, meaning in TRANSITIONS.items()),
    )
    classes, objects, util, miou_l = st.columns([3, 2, 2, 2])
    names = class_names(loaded.run)
    labels = url_state.multiselect(
        "Classes",
        "class",
        range(len(names)),
        container=classes,
        format_func=names.__getitem__,
        resets=RESETS,
        placeholder="all",
    )
    most = gallery.max_objects(loaded)
    num_objects = None
    if most:
        num_objects = url_state.range_slider(
            "Objects", "objects", 0, most, container=objects, resets=RESETS
        )
    return loaded, ImageFilter(
        selected_layer or None,
        tuple(labels),
        None if num_objects == (0, most) else num_objects,
        url_state.range_slider(
            "Util", "util", *PERCENT, format="%d%%", container=util, resets=RESETS
        ),
        url_state.range_slider(
            "mIoU-L", "miou_l", *PERCENT, format="%d%%", container=miou_l, resets=RESETS
        ),
        selected_transition,
        selected_order,
    )


def _show_no_images(loaded: LoadedRun) -> None:
    if loaded.run.summary["num_images"] == 0:
        components.show_empty(components.NO_IMAGES)
        return
    components.show_empty("No image matches these filters. Relax or reset them.")
    url_state.page_link(
        "images", "Reset filters", icon=":material/filter_alt_off:", run=loaded.slug
    )


def _show_summary(loaded: LoadedRun, filters: ImageFilter, page: int, total: int) -> None:
    text, download = st.columns([4, 1], vertical_alignment="center")
    first = PAGE_SIZE * (page - 1) + 1
    last = min(first + PAGE_SIZE - 1, total)
    layers = f"layer {filters.layer}" if filters.layer else "all layers from 1"
    limit = f" The CSV file has the first {MAX_CSV_ROWS:,}." if total > MAX_CSV_ROWS else ""
    text.caption(
        f"Images {first:,} to {last:,} of {total:,}. Below each image: Util, mIoU-L and number of "
        f"transitions ({filters.transition}) of {layers}.{limit}"
    )
    with download:
        components.download_button(
            "csv",
            lambda: to_csv(_in_percent(gallery.find_images(loaded, filters, MAX_CSV_ROWS))),
            f"{loaded.slug} images",
            "images",
        )


def _in_percent(images: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of the CSV file."""
    percent = {"util": "Util, %", "miou_l": "mIoU-L, %"}
    scaled = images.assign(**{name: 100 * images[name] for name in percent})
    return scaled.rename(columns=percent).drop(columns="total")


def _show_card(loaded: LoadedRun, row: dict[Hashable, Any], filters: ImageFilter) -> None:
    image_id = int(row["image_id"])
    name = str(row["file_name"]).rsplit("/", 1)[-1]
    try:
        thumbnail = _thumbnail(loaded, image_id)
    except RunError:  # is not cached: the image may come back
        thumbnail = drawing.placeholder_thumbnail()
    st.image(thumbnail, width="stretch", alt=name)
    url_state.page_link(
        "inspector",
        escape_markdown(name if len(name) <= 22 else f"…{name[-21:]}"),
        help=escape_markdown(str(row["file_name"])),
        run=loaded.slug,
        image=image_id,
        layer=filters.layer,
    )
    transition = "changes" if filters.transition == ALL_CHANGES else filters.transition
    st.caption(
        f"Util {format_percent(row['util'])}  \nmIoU-L {format_percent(row['miou_l'])}  \n"
        f"{row['num_gt']} GT, {row['transitions']:,} {transition}"
    )


@cached
def _thumbnail(loaded: LoadedRun, image_id: int) -> bytes:
    return drawing.make_thumbnail(loaded.run.image(image_id))
