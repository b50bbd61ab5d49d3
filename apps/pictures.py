"""Masks drawn over a picture, as arrays of shape (height, width, 3), uint8 RGB."""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps
from plotly.colors import sample_colorscale
from scipy.ndimage import distance_transform_edt

from apps import palette
from mpdiag.errors import RunError
from mpdiag.store import Run

T = TypeVar("T", bound=np.generic)
Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

SIDE = 480
GAP = 8
THUMBNAIL = (256, 192)


def load(path: Path) -> Picture:
    """Read an image and bring its longer side to SIDE pixels; RunError where it can't be read."""
    try:
        with Image.open(path) as image:
            scale = SIDE / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            return np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise RunError(f"{path} can't be read as an image: analyse it again") from error


def thumbnail(path: Path) -> bytes:
    """An image as a PNG of THUMBNAIL pixels, whole, with clear edges where its shape is another.

    RunError where it can't be read.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", THUMBNAIL)  # a JPEG is decoded no larger than it is needed
            return _png(ImageOps.pad(image.convert("RGBA"), THUMBNAIL, color=(0, 0, 0, 0)))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise RunError(f"{path} can't be read as an image: analyse it again") from error


def no_thumbnail() -> bytes:
    """A grey field of THUMBNAIL pixels, for want of the image."""
    return _png(Image.new("RGBA", THUMBNAIL, (128, 128, 128, 90)))


def of_run(run: Run, image_id: int, shape: tuple[int, ...]) -> Picture:
    """The picture of a run's image; a grey one for masks of this (height, width) where it is gone.

    For many small pictures; a page about one image says what is missing.
    """
    try:
        return load(run.image(image_id))
    except RunError:
        return blank(*shape)


def blank(height: int, width: int) -> Picture:
    """A grey picture in the proportions of a (height, width) mask, for want of the image."""
    scale = SIDE / max(height, width, 1)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)), 3)
    return np.full(shape, 128, dtype=np.uint8)


def red_over(picture: Picture, mask: Mask) -> Picture:
    """The mask in red, as in the paper's Figure 1; `mask` has any size and is stretched.

    The picture loses most of its colour, so that a red object can't be taken for a mask.
    """
    red, green, blue = (picture[..., channel].astype(np.uint16) for channel in range(3))
    # Three quarters of the mean of the channels, and one of their own.
    faded = ((red + green + blue)[..., None] + picture) // 4
    return _tint(faded.astype(np.uint8), _stretch(mask, picture), palette.MASK)


def lit(picture: Picture, mask: Mask) -> Picture:
    """The picture where the mask lies, and the rest in the dark; all of it for an empty mask."""
    if not mask.any():
        return picture
    dark = ~_stretch(mask, picture)
    shown = picture.copy()
    shown[dark] = shown[dark] // 4
    return shown


def heated(picture: Picture, shares: npt.NDArray[np.floating[Any]]) -> Picture:
    """The picture without colours under the scale of shares 0..1, (height, width) as it is."""
    grey = picture.mean(2, keepdims=True)
    colors = _heat()[np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)]
    mixed: npt.NDArray[np.float64] = 0.3 * grey + 0.7 * colors
    return mixed.astype(np.uint8)


@cache
def _heat() -> npt.NDArray[np.float64]:
    """(256, 3): the colours of shares 0..1."""
    levels = sample_colorscale(
        palette.HEAT, [level / 255 for level in range(256)], colortype="tuple"
    )
    return 255 * np.array(levels)


def spread(cells: npt.NDArray[T], covered: tuple[float, float], picture: Picture) -> npt.NDArray[T]:
    """A grid at the picture's size; the picture covers so many rows and columns of its cells."""
    rows, columns = (
        np.minimum(np.arange(side) * extent // side, count - 1).astype(int)
        for side, extent, count in zip(picture.shape, covered, cells.shape, strict=False)
    )
    return cells[np.ix_(rows, columns)]


def row(tiles: Sequence[Picture]) -> Picture:
    """Pictures of one size side by side on white."""
    height = tiles[0].shape[0]
    gap = np.full((height, GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([part for tile in tiles for part in (gap, tile)][1:], axis=1)


def numbered_over(picture: Picture, masks: Mask, marked: int = -1) -> Picture:
    """All `masks` (count, height, width) in colours with their numbers; `marked` in red."""
    stretched = [_stretch(mask, picture) for mask in masks]
    for number, mask in enumerate(stretched):
        color = palette.MASK if number == marked else palette.nth(palette.GT, number)
        picture = _tint(picture, mask, color)
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(SIDE / 18)
    for number, mask in enumerate(stretched):
        if mask.any():
            draw.text(
                _inner_point(mask),
                str(number),
                font=font,
                anchor="mm",
                fill="white",
                stroke_width=3,
                stroke_fill="black",
            )
    return np.asarray(canvas)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _stretch(mask: Mask, picture: Picture) -> Mask:
    height, width = mask.shape
    return spread(mask, (height, width), picture)


def _tint(picture: Picture, mask: Mask, color: tuple[int, int, int]) -> Picture:
    tinted = picture.copy()
    mixed = 0.45 * picture[mask].astype(np.float32) + 0.55 * np.asarray(color, dtype=np.float32)
    tinted[mask] = mixed.astype(np.uint8)
    tinted[_edge(mask)] = color
    return tinted


def _edge(mask: Mask, width: int = 3) -> Mask:
    inner = mask
    for _ in range(width):
        padded = np.pad(inner, 1, mode="edge")
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _inner_point(mask: Mask) -> tuple[float, float]:
    """The (x, y) of the mask's pixel that is farthest from its border, also for a ring.

    Of every second pixel, which is as good to the eye, where that leaves any.
    """
    step = 2 if mask[::2, ::2].any() else 1
    coarse = mask[::step, ::step]
    depth = distance_transform_edt(np.pad(coarse, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(np.argmax(depth), coarse.shape)
    return float(step * x), float(step * y)
