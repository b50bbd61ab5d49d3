"""Thumbnails and mask overlays of the dashboard; `reports.mask_images` has the common ones."""

import io
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps
from plotly.colors import sample_colorscale
from scipy.ndimage import distance_transform_edt, maximum_filter, minimum_filter

from reports import palette
from reports.mask_images import MAX_SIDE, Mask, RgbImage, open_image, resize_grid, resize_mask

THUMBNAIL_SIZE = (256, 192)
MAX_NUMBERS = 100
"""Number of masks of an image with numbers; more are not readable."""


def make_thumbnail(path: Path) -> bytes:
    """Return an image as a PNG of THUMBNAIL_SIZE pixels, padded with transparent borders.

    Raises:
        RunError: the file is not a readable image.
    """
    with open_image(path) as file:
        file.draft("RGB", THUMBNAIL_SIZE)  # decodes a JPEG at a reduced size
        image = ImageOps.exif_transpose(file).convert("RGBA")
        return _to_png(ImageOps.pad(image, THUMBNAIL_SIZE, color=(0, 0, 0, 0)))


def placeholder_thumbnail() -> bytes:
    """Return a grey PNG of THUMBNAIL_SIZE pixels, for a missing image."""
    return _to_png(Image.new("RGBA", THUMBNAIL_SIZE, (128, 128, 128, 90)))


def darken_outside(image: RgbImage, mask: Mask) -> RgbImage:
    """Darken the image outside the mask; an empty mask leaves the image unchanged."""
    if not mask.any():
        return image
    outside = ~resize_mask(mask, image)
    darkened = image.copy()
    darkened[outside] = darkened[outside] // 4
    return darkened


def overlay_heatmap(image: RgbImage, values: npt.NDArray[np.floating[Any]]) -> RgbImage:
    """Blend values in 0..1, (height, width) as the image, over the grey image."""
    grey = image.mean(2, keepdims=True)
    colors = _colorscale()[np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)]
    mixed: npt.NDArray[np.float64] = 0.3 * grey + 0.7 * colors
    return mixed.astype(np.uint8)


def overlay_numbered_masks(image: RgbImage, masks: Mask, highlighted: int = -1) -> RgbImage:
    """Draw `masks` (count, height, width) in colors with their indices; `highlighted` is red.

    The first MAX_NUMBERS masks and `highlighted`, which is on top, have numbers.
    """
    if not len(masks):
        return image
    indices = sorted(range(len(masks)), key=lambda index: index == highlighted)
    grid = np.full(masks.shape[1:], -1)
    for index in indices:
        grid[masks[index]] = index
    labels = resize_grid(grid, (masks.shape[1], masks.shape[2]), image)
    colors = np.array([palette.cycle(palette.GT_COLORS, index) for index in range(len(masks))])
    if 0 <= highlighted < len(masks):
        colors[highlighted] = palette.MASK_COLOR
    covered, outline = labels >= 0, _outline(labels)
    drawn = image.copy()
    drawn[covered] = (0.45 * image[covered] + 0.55 * colors[labels[covered]]).astype(np.uint8)
    drawn[outline] = colors[labels[outline]]
    numbered = [*range(min(len(masks), MAX_NUMBERS))]
    if MAX_NUMBERS <= highlighted < len(masks):
        numbered.append(highlighted)
    return _draw_numbers(drawn, masks, numbered)


def _draw_numbers(image: RgbImage, masks: Mask, indices: Iterable[int]) -> RgbImage:
    """Write the index of each of these masks inside it."""
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(MAX_SIDE / 18)
    scale = canvas.width / masks.shape[2], canvas.height / masks.shape[1]
    for index in indices:
        if masks[index].any():
            draw.text(
                _label_position(masks[index], scale),
                str(index),
                font=font,
                anchor="mm",
                fill="white",
                stroke_width=3,
                stroke_fill="black",
            )
    return np.asarray(canvas)


@cache
def _colorscale() -> npt.NDArray[np.float64]:
    """The RGB colors of 256 values in 0..1, shape (256, 3)."""
    levels = sample_colorscale(
        palette.COLORSCALE, [level / 255 for level in range(256)], colortype="tuple"
    )
    return 255 * np.array(levels)


def _to_png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _outline(labels: npt.NDArray[np.int_]) -> Mask:
    """Return where a label, which is not -1, ends."""
    size = 2 * max(1, max(labels.shape) // 160) + 1
    ends: Mask = maximum_filter(labels, size) != minimum_filter(labels, size)
    return ends & (labels >= 0)


def _label_position(mask: Mask, scale: tuple[float, float]) -> tuple[float, float]:
    """Return the (x, y) inside the mask that is farthest from its border, also for a ring.

    `scale` is the size of a cell of the mask in pixels.
    """
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(np.argmax(depth), mask.shape)
    return (float(x) + 0.5) * scale[0], (float(y) + 0.5) * scale[1]
