"""The masks of one query in all layers side by side, in red as in the paper's Figure 1."""

from collections.abc import Sequence

import streamlit as st

from apps import components
from apps.formatting import escape_markdown, format_percent
from apps.image_queries import QueryLayer
from mpdiag.store import Run
from reports.mask_images import Mask, RgbImage, concatenate, overlay_mask
from reports.names import class_name, layer_symbol

MAX_COLUMNS = 13


def show_filmstrip(
    run: Run, layers: Sequence[QueryLayer], masks: Mask | None, image: RgbImage
) -> None:
    """Show the masks (L + 1, height, width) over the image, and the numbers of each layer.

    Without masks, show the numbers only.
    """
    lowest = min((layer.iou_prev for layer in layers if layer.iou_prev is not None), default=None)
    for start in range(0, len(layers), MAX_COLUMNS):
        columns = st.columns(min(len(layers), MAX_COLUMNS), gap="xsmall")
        for column, layer in zip(columns, layers[start:], strict=False):
            previous = layers[layer.layer - 1] if layer.layer else None
            with column:
                if masks is not None:
                    st.image(
                        overlay_mask(image, masks[layer.layer]),
                        width="stretch",
                        output_format="JPEG",
                    )
                st.caption(_describe(run, layer, previous, lowest))
    st.caption(
        "Below each mask: IoU with the mask of the layer before (bold: lowest), matched GT "
        "(⇄: differs from the layer before), GT with the highest IoU, and predicted class with "
        "its score."
    )


def download_filmstrip(masks: Mask, image: RgbImage, name: str) -> None:
    """Show a button that saves the masks over the image as one row."""
    components.download_image(
        lambda: concatenate([overlay_mask(image, mask) for mask in masks]), name
    )


def _describe(
    run: Run, layer: QueryLayer, previous: QueryLayer | None, lowest: float | None
) -> str:
    """Return the Markdown lines below a mask."""
    if previous is None:
        iou = "first layer"
    elif layer.iou_prev is None:
        iou = "both empty" if layer.area == 0 else "not finite"
    else:
        iou = f"IoU {format_percent(layer.iou_prev)}"
        iou = f"**{iou}**" if layer.iou_prev == lowest else iou
    match = "no match" if layer.matched_gt < 0 else f"match GT {layer.matched_gt}"
    if previous is not None and previous.matched_gt != layer.matched_gt:
        match = f"⇄ {match}"
    best = "no overlap"
    if layer.best_gt >= 0:
        best = f"GT {layer.best_gt}: {format_percent(layer.best_gt_iou)}"
    predicted = f"{escape_markdown(class_name(run, layer.label))} {layer.score:.2f}"
    return "  \n".join([f"**{layer_symbol(layer.layer)}**", iou, match, best, predicted])
