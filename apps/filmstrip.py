"""One query's masks in all layers side by side, in red as in the paper's Figure 1."""

from collections.abc import Sequence

import streamlit as st

from apps import elements, pictures, texts
from apps.rows import ImageRows, Layer
from mpdiag.store import Run

TILES_IN_A_ROW = 13
PAIRS = 4


def show(
    run: Run, layers: Sequence[Layer], masks: pictures.Mask | None, picture: pictures.Picture
) -> None:
    """Show the masks (L + 1, height, width) over the picture, with the figures of each layer.

    Without masks, the figures alone.
    """
    worst = min((one.iou_prev for one in layers if one.iou_prev is not None), default=None)
    for start in range(0, len(layers), TILES_IN_A_ROW):
        tiles = st.columns(min(len(layers), TILES_IN_A_ROW), gap="xsmall")
        for tile, layer in zip(tiles, layers[start:], strict=False):
            before = layers[layer.index - 1] if layer.index else None
            with tile:
                if masks is not None:
                    _image(pictures.red_over(picture, masks[layer.index]))
                st.caption(_describe(run, layer, before, worst))
    st.caption(
        "Under each mask: its IoU with the mask of the layer before (bold: the lowest), the GT "
        "that it matches (⇄: another than in the layer before), the GT of highest IoU, and the "
        "predicted class with its score."
    )


def show_pairs(run: Run, image: ImageRows, picture: pictures.Picture) -> list[tuple[int, int]]:
    """Show the pairs of consecutive masks that differ most, and give query and layer of each."""
    found = image.failures(PAIRS).to_dict("records")
    boxes = st.columns(PAIRS, gap="medium")
    shown = []
    for box, pair in zip(boxes, found, strict=False):
        query, layer = int(pair["query"]), int(pair["layer"])
        masks = run.masks(image.image_id, query)
        with box:
            for half, index in zip(st.columns(2, gap="xsmall"), (layer - 1, layer), strict=True):
                with half:
                    _image(pictures.red_over(picture, masks[index]))
            st.caption(
                f"Query {query}, {texts.layer(layer - 1)} and {texts.layer(layer)}: "
                f"IoU {texts.percent(pair['iou'])}"
            )
        shown.append((query, layer))
    return shown


def _image(picture: pictures.Picture) -> None:
    st.image(picture, width="stretch", output_format="JPEG")


def save(masks: pictures.Mask, picture: pictures.Picture, name: str) -> None:
    """A button that saves the masks over the picture as one row."""
    elements.save_picture(
        lambda: pictures.row([pictures.red_over(picture, mask) for mask in masks]), name
    )


def _describe(run: Run, layer: Layer, before: Layer | None, worst: float | None) -> str:
    """The lines under a mask, as Markdown."""
    if before is None:
        iou = "first"
    elif layer.iou_prev is None:
        iou = "both empty" if layer.area == 0 else "not finite"
    else:
        iou = f"IoU {texts.percent(layer.iou_prev)}"
        iou = f"**{iou}**" if layer.iou_prev == worst else iou
    gt = "no match" if layer.matched_gt < 0 else f"is GT {layer.matched_gt}"
    if before is not None and before.matched_gt != layer.matched_gt:
        gt = f"⇄ {gt}"
    best = "on no GT"
    if layer.best_gt >= 0:
        best = f"GT {layer.best_gt}: {texts.percent(layer.best_gt_iou)}"
    predicted = f"{texts.markdown(texts.class_name(run, layer.label))} {layer.score:.2f}"
    return "  \n".join([f"**{texts.layer(layer.index)}**", iou, gt, best, predicted])
