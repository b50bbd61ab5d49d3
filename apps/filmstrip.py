"""The masks of one query in all layers side by side, in red as in the paper's Figure 1."""

from collections.abc import Sequence

import streamlit as st

from apps import components
from apps.formatting import escape_markdown, format_percent, shorten
from apps.image_queries import QueryLayer
from mpdiag.store import Run
from reports.mask_images import Mask, RgbImage, concatenate, overlay_mask
from reports.names import class_name, layer_symbol

MAX_COLUMNS = 13
MASK_ENTRY = ('<span class="mask"></span>', "mask of the query")
IOU_ENTRY = ("IoU 90%", "with the mask of the layer before; bold: lowest")
CLASS_ENTRY = ("car 0.95", "predicted class and score")
LEGEND = (
    MASK_ENTRY,
    IOU_ENTRY,
    ("match GT 2", "GT matched in this layer"),
    ("⇄", "another match than in the layer before"),
    ("GT 2: 80%", "GT with the highest IoU, matched or not"),
    CLASS_ENTRY,
)


def show_filmstrip(
    run: Run, layers: Sequence[QueryLayer], masks: Mask | None, image: RgbImage
) -> None:
    """Show the masks (L + 1, height, width) over the image, the numbers of each layer, a legend.

    Without masks, show the numbers only.
    """
    lowest = min((layer.iou_prev for layer in layers if layer.iou_prev is not None), default=None)
    previous = [None, *layers[:-1]]
    show_masks(
        image,
        masks,
        [_describe(run, *pair, lowest) for pair in zip(layers, previous, strict=True)],
    )
    components.legend(LEGEND if masks is not None else LEGEND[1:])


def show_masks(image: RgbImage, masks: Mask | None, captions: Sequence[str], run: str = "") -> None:
    """Show the masks (L + 1, height, width) over the image, each with its caption below.

    If the page shows the masks of several runs, `run` names this one.
    """
    of_run = f" of {run}" if run else ""
    with st.container(key=f"filmstrip{of_run}"):
        for start in range(0, len(captions), MAX_COLUMNS):
            columns = st.columns(min(len(captions), MAX_COLUMNS), gap="xsmall")
            for layer, column in enumerate(columns[: len(captions) - start], start):
                if masks is not None:
                    overlay = overlay_mask(image, masks[layer])
                    alt = f"Mask{of_run} in {layer_symbol(layer)}"
                    column.image(overlay, width="stretch", output_format="JPEG", alt=alt)
                column.caption(captions[layer])


def download_filmstrip(masks: Mask, image: RgbImage, name: str) -> None:
    """Show a button that saves the masks over the image as one row."""
    components.download_image(
        lambda: concatenate([overlay_mask(image, mask) for mask in masks]), name, "masks"
    )


def describe_iou(iou: float, lowest: float | None) -> str:
    """Return the IoU of a mask with that of the layer before, bold if it is the lowest."""
    text = f"IoU {format_percent(iou)}"
    return f"**{text}**" if iou == lowest else text


def _describe(
    run: Run, layer: QueryLayer, previous: QueryLayer | None, lowest: float | None
) -> str:
    """Return the Markdown lines below a mask."""
    if previous is None:
        iou = "first layer"
    elif layer.iou_prev is None:
        iou = "both empty" if layer.area == previous.area == 0 else "not finite"
    else:
        iou = describe_iou(layer.iou_prev, lowest)
    match = "no match" if layer.matched_gt < 0 else f"match GT {layer.matched_gt}"
    if previous is not None and previous.matched_gt != layer.matched_gt:
        match = f"⇄ {match}"
    best = "no overlap"
    if layer.best_gt >= 0:
        best = f"GT {layer.best_gt}: {format_percent(layer.best_gt_iou)}"
    predicted = "no finite prediction"
    if layer.label is not None and layer.score is not None:
        predicted = (
            f"{escape_markdown(shorten(class_name(run, int(layer.label))))} {layer.score:.2f}"
        )
    return "  \n".join([f"**{layer_symbol(layer.layer)}**", iou, match, best, predicted])
