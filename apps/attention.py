"""One decoder layer of a query: where it may look, where it looks, and what it predicts from it."""

from typing import Any

import streamlit as st

from apps import address, elements, pictures, texts
from mpdiag.errors import RunError
from mpdiag.store import Run
from mpdiag.store.attention import Attention

_KEPT = "SELECT layer FROM attention WHERE image_id = ? AND query = ? LIMIT 1"


def show(
    run: Run,
    image_id: int,
    query: int,
    layer: int,
    masks: pictures.Mask,
    picture: pictures.Picture,
    name: str,
) -> None:
    """Show layer 1..L of a query whose masks (L + 1, height, width) were kept.

    With the attention that the run has kept, else with the mask of the layer before and a word
    about how to have it kept; `name` is that of the saved picture.
    """
    st.header("What the layer sees", anchor=False)
    box, *places = st.columns(4, gap="medium")
    address.select("Layer", "layer", range(1, run.num_layers + 1), default=layer, box=box, show=str)
    settings = run.header.get("settings")
    try:
        kept = None
        if not run.query(_KEPT, [image_id, query]).empty:
            kept = run.attention(image_id, query)[layer - 1]
    except RunError as error:
        elements.error(error)
        return
    if kept is None:
        box.caption(_without(layer))
        tiles = [_before(layer, masks[layer - 1], picture)]
    else:
        box.caption(_with(layer, kept))
        tiles = _kept(layer, kept, picture)
    if isinstance(settings, dict) and settings.get("intervene"):
        box.warning("The masks of some layers were replaced in this run: see its settings.")
    after = pictures.red_over(picture, masks[layer])
    tiles.append((after, f"What it predicts from that: {texts.layer(layer)}"))
    for place, (painted, caption) in zip(places, tiles, strict=False):
        place.image(painted, width="stretch", output_format="JPEG")
        place.caption(caption)
    with box:
        elements.save_picture(lambda: pictures.row([painted for painted, _ in tiles]), name)


def _without(layer: int) -> str:
    return (
        f"Masked attention: layer {layer} reads the image only where {texts.layer(layer - 1)} "
        "lies, on the grid of its feature map; where that is empty there, everywhere. The mask is "
        "shown as it was kept, which is finer. This run has kept no attention of the query: "
        "analyse again with `--save-attention`, or let "
        '`mpdiag.record(model, only=["cross_attention"])` give it.'
    )


def _before(layer: int, seen: Any, picture: pictures.Picture) -> tuple[pictures.Picture, str]:
    symbol = texts.layer(layer - 1)
    return pictures.lit(picture, seen), (
        f"Attention mask of layer {layer}: {symbol}"
        if seen.any()
        else f"{symbol} is empty: layer {layer} attends everywhere"
    )


def _with(layer: int, kept: Attention) -> str:
    rows, columns = kept.weights.shape
    grid = f"a grid of {rows} x {columns} cells"
    if kept.mask is None:
        return f"Layer {layer} reads the whole image, on {grid}: this model has no attention masks."
    return (
        f"Masked attention: layer {layer} reads the image, on {grid}, only where "
        f"{texts.layer(layer - 1)} lies; where that is empty there, everywhere."
    )


def _kept(
    layer: int, kept: Attention, picture: pictures.Picture
) -> list[tuple[pictures.Picture, str]]:
    """Pictures of mask, if there is one, and weights, each with its caption."""
    tiles = []
    if kept.mask is not None:
        mask = pictures.spread(kept.mask, kept.image, picture)
        where = "everywhere"
        if not kept.mask.all():
            where = f"{texts.percent(float(kept.mask.mean()))} of the cells"
        tiles.append((pictures.lit(picture, mask), f"Attention mask of layer {layer}: {where}"))
    weights = pictures.spread(kept.weights, kept.image, picture)
    highest = float(kept.weights.max())
    caption = (
        f"Its cross-attention, the mean over heads: yellow cells have {100 * highest:.2g} % of "
        "the weight, dark blue ones none"
    )
    tiles.append((pictures.heated(picture, weights / (highest or 1.0)), caption))
    return tiles
