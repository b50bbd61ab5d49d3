"""One decoder layer of a query: its attention mask, its attention weights and its prediction."""

import streamlit as st

from apps import components, drawing, url_state
from apps.formatting import format_percent
from mpdiag.errors import RunError
from mpdiag.store import Run
from mpdiag.store.attention import StoredAttention
from reports.mask_images import Mask, RgbImage, concatenate, overlay_mask, resize_grid
from reports.names import layer_symbol

CaptionedImage = tuple[RgbImage, str]

_SAVED = "SELECT layer FROM attention WHERE image_id = ? AND query = ? LIMIT 1"


def show_attention(
    run: Run, image_id: int, query: int, layer: int, masks: Mask, image: RgbImage, name: str
) -> None:
    """Show layer 1..L of a query whose masks (L + 1, height, width) are saved.

    Without saved attention, show the mask of the layer before. `name` is that of the saved image.
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
        text.caption(_describe_unsaved(layer))
        tiles = [_previous_mask(layer, masks[layer - 1], image)]
    else:
        text.caption(_describe_saved(layer, attention))
        tiles = _saved_attention(layer, attention, image)
    settings = run.header.get("settings")
    if isinstance(settings, dict) and settings.get("intervene"):
        st.warning("This run replaced the masks of some layers: see its settings.")
    prediction = overlay_mask(image, masks[layer])
    tiles.append((prediction, f"Prediction of layer {layer}: {layer_symbol(layer)}"))
    for column, (tile, caption) in zip(st.columns(3, gap="medium"), tiles, strict=False):
        column.image(tile, width="stretch", output_format="JPEG", alt=caption)
        column.caption(caption)
    components.download_image(lambda: concatenate([tile for tile, _ in tiles]), name)


def _describe_unsaved(layer: int) -> str:
    return (
        f"Masked attention: layer {layer} attends only inside {layer_symbol(layer - 1)}, or "
        "everywhere if that mask is empty. The mask is shown at a higher resolution than the "
        "layer uses. This run has no saved attention for this query. To save it, run the analysis "
        'again with `--save-attention`, or use `mpdiag.record(model, only=["cross_attention"])`.'
    )


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


def _previous_mask(layer: int, mask: Mask, image: RgbImage) -> CaptionedImage:
    symbol = layer_symbol(layer - 1)
    return drawing.darken_outside(image, mask), (
        f"Attention mask of layer {layer}: {symbol}"
        if mask.any()
        else f"{symbol} is empty: layer {layer} attends everywhere"
    )


def _saved_attention(
    layer: int, attention: StoredAttention, image: RgbImage
) -> list[CaptionedImage]:
    """Return the attention mask, if there is one, and the weights, with captions."""
    tiles = []
    if attention.mask is not None:
        mask = resize_grid(attention.mask, attention.image, image)
        area = "everywhere"
        if not attention.mask.all():
            area = f"{format_percent(float(attention.mask.mean()))} of the cells"
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
