"""Figure of one query's masks in all layers over the image, like Figure 1 of the paper."""

import math
from collections.abc import Sequence
from io import BytesIO
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from mpdiag.errors import RecordingError

MASK_COLOUR = (225, 25, 35)
PANELS_PER_ROW = 5
PANEL_WIDTH = 2.4  # inches
Floats = npt.NDArray[np.float64]


class LayerFigure(Figure):
    """Figure that a notebook displays without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def plot_layers(
    masks: npt.NDArray[np.bool_],
    rows: pd.DataFrame,
    image: Any,
    layers: Sequence[int],
    title: str,
) -> LayerFigure:
    """Return the figure of `Recording.plot`.

    Args:
        masks: (L + 1, h, w) masks of one query.
        rows: `iou_prev` and, if available, `label` and `score` of this query, indexed by layer.
        image: (H, W, 3) or (3, H, W), or a PIL image; grey background if None.
        layers: layers to draw, 0..L.
        title: above all panels.

    Raises:
        RecordingError: `image` is not an image.
    """
    background = _faded(image, masks.shape[1:])
    num_rows = math.ceil(len(layers) / PANELS_PER_ROW)
    num_columns = min(len(layers), PANELS_PER_ROW)
    ratio = background.shape[0] / background.shape[1]
    figure = LayerFigure(
        figsize=(PANEL_WIDTH * num_columns, (PANEL_WIDTH * ratio + 0.55) * num_rows),
        layout="constrained",
    )
    axes = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, layer in zip(axes, layers, strict=False):
        axis.imshow(_overlay(background, masks[layer]))
        axis.set_title(_panel_title(layer, rows.loc[layer]), fontsize=8)
    figure.suptitle(title, fontsize=9)
    return figure


def _panel_title(layer: int, row: Any) -> str:
    iou = "both empty" if np.isnan(row.iou_prev) else f"IoU {100 * row.iou_prev:.1f} %"
    iou = f"  {iou}" if layer else ""
    title = f"$M^{{{layer}}}${iou}"
    return f"{title}\nclass {int(row.label)}: {row.score:.2f}" if "label" in row else title


def _faded(image: Any, grid: tuple[int, ...]) -> Floats:
    """Return (H, W, 3) in 0..1 with little colour, so that no red object looks like a mask."""
    if image is None:
        return np.full((*grid, 3), 0.6)
    if isinstance(image, str | PathLike):
        raise RecordingError(f"{image}: a path, not an image; pass PIL.Image.open(path)")
    array = image.cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[-1] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise RecordingError(
            f"image: has shape {array.shape}; pass an image of shape (H, W, 3) or (3, H, W)"
        )
    values = array.astype(np.float64)
    low, high = values.min(), values.max()
    if array.dtype == np.uint8 or (low >= 0 and high > 1):
        values = values / 255
    elif low < 0:  # normalised by the model's preprocessing
        values = (values - low) / max(high - low, 1e-12)
    faded: Floats = 0.75 * values.mean(-1, keepdims=True) + 0.25 * values
    return faded


def _overlay(background: Floats, mask: npt.NDArray[np.bool_]) -> Floats:
    """Return the background with the mask, resized to it, in red."""
    height, width = background.shape[:2]
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    inside = mask[np.ix_(rows, columns)][..., None]
    return np.where(inside, 0.45 * background + 0.55 * np.array(MASK_COLOUR) / 255, background)
