"""One decoder layer of a query: its attention mask, its attention weights and its prediction."""

import math
from typing import Literal

import streamlit as st

from apps import components, drawing, url_state
from apps.formatting import format_percent
from mpdiag.errors import RunError
from mpdiag.store import Run
from mpdiag.store.attention import StoredAttention
from reports.mask_images import Mask, RgbImage, concatenate, overlay_mask, resize_grid
from reports.names import layer_symbol

CaptionedImage = tuple[RgbImage, str]
_MaskSource = Literal["GT", "previous", "none", "unknown"]

_MASKED_FAMILIES = (
    "mpdiag Mask2Former",
    "official Mask2Former",
    "transformers Mask2Former",
    "transformers OneFormer",
)
"""Families whose layers attend only inside the mask of the layer before."""
_SAVE = (
    "This run has no saved attention for this query. To save it, run the analysis again with "
    '`--save-attention`, or use `mpdiag.record(model, only=["cross_attention"])`.'
)
_SAVED = "SELECT layer FROM attention WHERE image_id = ? AND query = ? LIMIT 1"


def show_attention(
    run: Run, image_id: int, query: int, layer: int, masks: Mask, image: RgbImage, name: str
) -> None:
    """Show layer 1..L of a query whose masks (L + 1, height, width) are saved.

    Without saved attention, show the attention mask if it is known. `name` is that of the saved
    image.
    """
    st.header("Attention of one layer", anchor=False)
    select, text = st.columns([1, 4], gap="medium", vertical_alignment="bottom")
    url_state.selectbox(
        "Layer", "layer", range(1, run.num_layers + 1), default=layer, container=select
    )
    try:
        saved = not run.query(_SAVED, [image_id, query]).empty
        attention = run.attention(image_id, query)[layer - 1] if saved else None
    except RunError as error:
        components.show_error(error)
        return
    if attention is None:
        source = _mask_source(run, layer)
        text.caption(_describe_unsaved(run, layer, query, source))
        tiles = _unsaved_mask(run, image_id, query, layer, masks, image, source)
    else:
        text.caption(_describe_saved(layer, attention))
        tiles = _saved_attention(layer, attention, image)
    if run.header.get("settings", {}).get("intervene"):
        st.warning("This run replaced the masks of some layers: see its settings.")
    prediction = overlay_mask(image, masks[layer])
    tiles.append((prediction, f"Prediction of layer {layer}: {layer_symbol(layer)}"))
    for column, (tile, caption) in zip(st.columns(3, gap="medium"), tiles, strict=False):
        column.image(tile, width="stretch", output_format="JPEG", alt=caption)
        column.caption(caption)
    components.download_image(lambda: concatenate([tile for tile, _ in tiles]), name, "attention")


def _mask_source(run: Run, layer: int) -> _MaskSource:
    """Return what the attention mask of a layer is made from."""
    if run.header.get("part") == "piloted":
        pilot_layers = run.header.get("settings", {}).get("pilot_layers")
        if not isinstance(pilot_layers, int):
            return "unknown"
        if layer <= pilot_layers:
            return "GT"
    model = run.header["architecture"] or {}
    if "family" in model and model["family"] not in _MASKED_FAMILIES:
        return "unknown"
    return "previous" if model.get("masked_attention", True) else "none"


def _describe_unsaved(run: Run, layer: int, query: int, source: _MaskSource) -> str:
    higher = "The mask is shown at a higher resolution than the layer uses."
    text = {
        "GT": f"Masked attention: layer {layer} attends only inside the mask of GT {query}, from "
        f"which the query is made. {higher}",
        "previous": f"Masked attention: layer {layer} attends only inside "
        f"{layer_symbol(layer - 1)}, or everywhere if that mask is empty. {higher}",
        "none": f"Layer {layer} attends everywhere: this model has no attention masks.",
        "unknown": f"Where layer {layer} attends is not known for this model.",
    }[source]
    return text if run.header.get("part") == "piloted" else f"{text} {_SAVE}"


def _describe_saved(layer: int, attention: StoredAttention) -> str:
    rows, columns = attention.weights.shape
    grid = f"a grid of {rows} x {columns} cells"
    if attention.mask is None:
        return (
            f"Layer {layer} attends to the whole image on {grid}. This model has no attention "
            "masks."
        )
    return (
        f"Masked attention: layer {layer} attends on {grid}, only inside "
        f"{layer_symbol(layer - 1)}, or everywhere if that mask is empty."
    )


def _unsaved_mask(
    run: Run,
    image_id: int,
    query: int,
    layer: int,
    masks: Mask,
    image: RgbImage,
    source: _MaskSource,
) -> list[CaptionedImage]:
    """Return the mask that the attention mask of a layer is made from, if there is one."""
    if source == "GT":
        found, symbol = run.gt_masks(image_id)[query : query + 1], f"the mask of GT {query}"
    elif source == "previous":
        found, symbol = masks[layer - 1 : layer], layer_symbol(layer - 1)
    else:
        return []
    return [
        (
            drawing.darken_outside(image, mask),
            f"Attention mask of layer {layer}: {symbol}"
            if mask.any()
            else f"{symbol} is empty: layer {layer} attends everywhere",
        )
        for mask in found
    ]


def _saved_attention(
    layer: int, attention: StoredAttention, image: RgbImage
) -> list[CaptionedImage]:
    """Return the attention mask, if there is one, and the weights, with captions."""
    tiles = []
    if attention.mask is not None:
        mask = resize_grid(attention.mask, attention.image, image)
        area = "everywhere"
        if not attention.mask.all():
            rows, columns = (math.ceil(covered) for covered in attention.image)
            share = float(attention.mask[:rows, :columns].mean())
            area = f"{format_percent(share)} of the cells"
        caption = f"Attention mask of layer {layer}: {area}"
        tiles.append((drawing.darken_outside(image, mask), caption))
    weights = resize_grid(attention.weights, attention.image, image)
    highest = float(attention.weights.max())
    caption = (
        "Cross-attention weights, mean over heads: from 0 (dark blue) to "
        f"{100 * highest:.3g}% per cell (yellow)"
    )
    tiles.append((drawing.overlay_heatmap(image, weights / (highest or 1.0)), caption))
    return tiles
