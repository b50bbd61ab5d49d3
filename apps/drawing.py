"""Thumbnails and mask overlays of the dashboard; `reports.mask_images` has the common ones."""

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps
from plotly.colors import sample_colorscale
from scipy.ndimage import distance_transform_edt

from reports import palette
from reports.mask_images import MAX_SIDE, Mask, RgbImage, open_image, resize_mask, tint

THUMBNAIL_SIZE = (256, 192)


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
    """Draw `masks` (count, height, width) in colors with their indices; `highlighted` is red."""
    resized = [resize_mask(mask, image) for mask in masks]
    for index, mask in enumerate(resized):
        color = (
            palette.MASK_COLOR if index == highlighted else palette.cycle(palette.GT_COLORS, index)
        )
        image = tint(image, mask, color)
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(MAX_SIDE / 18)
    for index, mask in enumerate(resized):
        if mask.any():
            draw.text(
                _label_position(mask),
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


def _label_position(mask: Mask) -> tuple[float, float]:
    """Return the (x, y) inside the mask that is farthest from its border, also for a ring.

    Every second pixel is enough, unless that leaves none.
    """
    step = 2 if mask[::2, ::2].any() else 1
    coarse = mask[::step, ::step]
    depth = distance_transform_edt(np.pad(coarse, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(np.argmax(depth), coarse.shape)
    return float(step * x), float(step * y)
