"""One query's masks in all layers, in red over the image, as in the paper's Figure 1."""

import math
from collections.abc import Sequence
from io import BytesIO
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from torch import Tensor

from mpdiag.errors import RecordingError
from mpdiag.recording.frame import masks_of, rows_of

if TYPE_CHECKING:
    from mpdiag.recording.recording import Recording

RED = (225, 25, 35)
PANELS_IN_A_ROW = 5
WIDTH = 2.4  # inches of a panel
Floats = npt.NDArray[np.float64]


class LayerFigure(Figure):
    """A figure that a notebook shows as it is, whether or not pyplot was imported there."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def draw(
    recording: "Recording",
    query: int,
    picture: Any,
    index: int,
    valid: tuple[int, int] | None,
    layers: Sequence[int] | None,
) -> LayerFigure:
    """The figure of `Recording.show`."""
    masks = masks_of(recording)
    count, batch, queries = masks.shape[:3]
    _check("query", query, queries)
    _check("index", index, batch)
    shown = list(range(count)) if layers is None else list(layers)
    for layer in shown:
        _check("layer", layer, count)
    whole = (masks.shape[-2], masks.shape[-1])
    rows, columns = whole if valid is None else valid
    red = (masks[:, index, query, :rows, :columns] > 0).cpu().numpy()
    background = _grey(picture, (rows, columns))
    said = rows_of(recording, None if valid is None else [valid] * batch)
    said = said[(said["image"] == index) & (said["query"] == query)].set_index("layer")

    lines = math.ceil(len(shown) / PANELS_IN_A_ROW)
    across = min(len(shown), PANELS_IN_A_ROW)
    ratio = background.shape[0] / background.shape[1]
    figure = LayerFigure(
        figsize=(WIDTH * across, (WIDTH * ratio + 0.55) * lines), layout="constrained"
    )
    axes = figure.subplots(lines, across, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, layer in zip(axes, shown, strict=False):
        axis.imshow(_over(background, red[layer]))
        axis.set_title(_title(layer, said.loc[layer]), fontsize=8)
    figure.suptitle(f"Query {query} of {recording.family}, layer by layer", fontsize=9)
    return figure


def _check(what: str, value: int, count: int) -> None:
    if not 0 <= value < count:
        raise RecordingError(f"{what} {value} is not there: they go from 0 to {count - 1}")


def _title(layer: int, row: Any) -> str:
    iou = "both empty" if np.isnan(row.iou_prev) else f"IoU {100 * row.iou_prev:.1f} %"
    iou = f"  {iou}" if layer else ""
    title = f"$M^{{{layer}}}${iou}"
    return f"{title}\nclass {int(row.label)}: {row.score:.2f}" if "label" in row else title


def _grey(picture: Any, grid: tuple[int, int]) -> Floats:
    """(H, W, 3) in 0..1 with most of its colour gone, so that no red object looks like a mask."""
    if picture is None:
        return np.full((*grid, 3), 0.6)
    if isinstance(picture, str | PathLike):
        raise RecordingError(f"{picture} is a path: give the image itself, as PIL.Image.open reads")
    array = picture.cpu().numpy() if isinstance(picture, Tensor) else np.asarray(picture)
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[-1] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise RecordingError(
            f"an image of shape {array.shape} can't be drawn: give (H, W, 3) or (3, H, W)"
        )
    values = array.astype(np.float64)
    low, high = values.min(), values.max()
    if array.dtype == np.uint8 or (low >= 0 and high > 1):
        values = values / 255
    elif low < 0:  # normalised, as models are shown it
        values = (values - low) / max(high - low, 1e-12)
    faded: Floats = 0.75 * values.mean(-1, keepdims=True) + 0.25 * values
    return faded


def _over(background: Floats, mask: npt.NDArray[np.bool_]) -> Floats:
    """The mask, stretched to the background's size, in red over it."""
    height, width = background.shape[:2]
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    inside = mask[np.ix_(rows, columns)][..., None]
    return np.where(inside, 0.45 * background + 0.55 * np.array(RED) / 255, background)
