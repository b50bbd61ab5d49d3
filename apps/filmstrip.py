"""One query's masks in all layers side by side, in red as in the paper's Figure 1."""

from collections.abc import Sequence

import streamlit as st

from apps import pictures, texts
from apps.rows import Layer
from mpdiag.store import Run

TILES_IN_A_ROW = 13


def show(
    run: Run, layers: Sequence[Layer], masks: pictures.Mask, picture: pictures.Picture
) -> None:
    """Show the masks (L + 1, height, width) over the picture, with the figures of each layer."""
    worst = min((one.iou_prev for one in layers if one.iou_prev is not None), default=None)
    for start in range(0, len(layers), TILES_IN_A_ROW):
        tiles = st.columns(min(len(layers), TILES_IN_A_ROW), gap="xsmall")
        for tile, layer in zip(tiles, layers[start:], strict=False):
            before = layers[layer.index - 1] if layer.index else None
            with tile:
                st.image(pictures.red_over(picture, masks[layer.index]), width="stretch")
                st.caption(_describe(run, layer, before, worst))
    st.caption(
        "Under each mask: its IoU with the mask of the layer before (bold: the lowest), the GT "
        "that it matches (⇄: another than in the layer before), the predicted class and its score."
    )


def _describe(run: Run, layer: Layer, before: Layer | None, worst: float | None) -> str:
    """The lines under a mask, as Markdown."""
    if before is None:
        iou = "first"
    elif layer.iou_prev is None:
        iou = "both empty"
    else:
        iou = f"IoU {texts.percent(layer.iou_prev)}"
        iou = f"**{iou}**" if layer.iou_prev == worst else iou
    gt = "no GT" if layer.matched_gt < 0 else f"GT {layer.matched_gt}"
    if layer.matched_label is not None:
        gt += f" {texts.markdown(texts.class_name(run, layer.matched_label))}"
    if before is not None and before.matched_gt != layer.matched_gt:
        gt = f"⇄ {gt}"
    predicted = f"{texts.markdown(texts.class_name(run, layer.label))} {layer.score:.2f}"
    return "  \n".join([f"**{texts.layer(layer.index)}**", iou, gt, predicted])
