"""Images: a gallery of a run's images that sorts and filters, each a link to the Inspector."""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import streamlit as st

from apps import address, elements, gallery, pictures, texts
from apps.gallery import ANY, ORDERS, PERCENT, Filter
from apps.runs import Loaded, cached
from mpdiag.errors import RunError
from mpdiag.store.transitions import TRANSITIONS

COLUMNS, ROWS = 6, 4
ON_A_PAGE = COLUMNS * ROWS
ALL_LAYERS = 0
MOST_IN_CSV = 100_000
RESETS = ("page",)


def show(loaded: Sequence[Loaded]) -> None:
    """Show the page."""
    elements.heading("Images", "Find the images where queries change their masks or their objects.")
    one, wanted = _choose(loaded)
    page = max(address.number("page") or 1, 1)
    found = gallery.find(one, wanted, ON_A_PAGE, ON_A_PAGE * (page - 1))
    if found.empty and page > 1:
        page = 1
        found = gallery.find(one, wanted, ON_A_PAGE)
    if found.empty:
        _show_nothing(one, wanted)
        return
    total = int(found["total"][0])
    _show_head(one, wanted, page, total)
    cards = found.to_dict("records")
    for start in range(0, len(cards), COLUMNS):
        for box, row in zip(st.columns(COLUMNS, gap="small"), cards[start:], strict=False):
            with box:
                _show_card(one, row, wanted)
    address.pager("page", page, math.ceil(total / ON_A_PAGE))


def _choose(loaded: Sequence[Loaded]) -> tuple[Loaded, Filter]:
    run, order, layer, kind = st.columns([3, 2, 2, 2])
    one = address.run(loaded, box=run)
    chosen_order = address.select(
        "Sort by", "sort", list(ORDERS), box=order, show=lambda key: ORDERS[key][0], resets=RESETS
    )
    chosen_layer = address.select(
        "Layer",
        "layer",
        range(one.run.num_layers + 1),
        box=layer,
        show=lambda key: f"{key}" if key else f"1 to {one.run.num_layers} together",
        resets=RESETS,
        help="Layer of Util, of mIoU-L and of the transitions.",
    )
    chosen_kind = address.select(
        "Transitions",
        "transition",
        [ANY, *TRANSITIONS],
        box=kind,
        resets=RESETS,
        help="  \n".join(f"**{key}**: {words}" for key, words in TRANSITIONS.items()),
    )
    classes, objects, util, miou_l = st.columns([3, 2, 2, 2])
    names = texts.classes(one.run)
    labels = address.several(
        "Classes",
        "class",
        range(len(names)),
        box=classes,
        show=names.__getitem__,
        resets=RESETS,
    )
    most = gallery.most_objects(one)
    span = address.span("Objects", "objects", 0, most, box=objects, resets=RESETS) if most else None
    return one, Filter(
        chosen_layer or None,
        tuple(labels),
        None if span == (0, most) else span,
        address.span("Util", "util", *PERCENT, box=util, unit=" %%", resets=RESETS),
        address.span("mIoU-L", "miou_l", *PERCENT, box=miou_l, unit=" %%", resets=RESETS),
        chosen_kind,
        chosen_order,
    )


def _show_nothing(one: Loaded, wanted: Filter) -> None:
    if one.run.summary["num_images"] == 0:
        elements.empty("This run has no images. Analyse again with a data set that has some.")
        return
    elements.empty("No image fits these filters. Widen them, or start anew.")
    address.link("images", "Show all images", icon=":material/filter_alt_off:", run=one.token)


def _show_head(one: Loaded, wanted: Filter, page: int, total: int) -> None:
    words, save = st.columns([6, 1], vertical_alignment="center")
    first = ON_A_PAGE * (page - 1) + 1
    last = min(first + ON_A_PAGE - 1, total)
    layers = f"layer {wanted.layer}" if wanted.layer else f"layers 1 to {one.run.num_layers}"
    words.caption(
        f"Images {first:,} to {last:,} of {total:,}. Util and mIoU-L of {layers}, and how many "
        f"transitions there are ({wanted.kind})."
    )
    with save:
        elements.download(
            "csv",
            lambda: elements.csv(gallery.find(one, wanted, MOST_IN_CSV).drop(columns="total")),
            f"{one.token} images",
            "text/csv",
        )


def _show_card(one: Loaded, row: dict[Hashable, Any], wanted: Filter) -> None:
    image_id = int(row["image_id"])
    st.image(_thumbnail(one, image_id), width="stretch")
    name = str(row["file_name"]).rsplit("/", 1)[-1]
    address.link(
        "inspector",
        texts.markdown(name if len(name) <= 22 else f"…{name[-21:]}"),
        help=texts.markdown(str(row["file_name"])),
        run=one.token,
        image=image_id,
        layer=wanted.layer,
    )
    st.caption(
        f"Util {texts.percent(row['util'])}  \nmIoU-L {texts.percent(row['miou_l'])}  \n"
        f"{row['num_gt']} GT, {row['moves']:,} {'changes' if wanted.kind == ANY else wanted.kind}"
    )


@cached
def _thumbnail(one: Loaded, image_id: int) -> bytes:
    try:
        return pictures.thumbnail(one.run.image(image_id))
    except RunError:
        return pictures.no_thumbnail()
