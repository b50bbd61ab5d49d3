"""Draw masks over images.

Images are uint8 RGB arrays of shape (height, width, 3); masks are bool arrays of any size, which
are resized to the image.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from mpdiag.errors import RunError
from mpdiag.store import Run
from mpdiag.untrusted import IMAGE_FORMATS, open_regular
from reports.palette import MASK_COLOR

T = TypeVar("T", bound=np.generic)
RgbImage = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

MAX_SIDE = 480
"""Default length of the longer side of an image, in pixels."""
GAP = 8
"""Pixels between images side by side."""


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image of a run.

    Raises:
        RunError: the image cannot be read, or a statement of the block cannot decode it.
    """
    try:
        with open_regular(path) as file, Image.open(file, formats=IMAGE_FORMATS) as image:
            yield image
    except Exception as error:  # Pillow raises errors of many types for a broken file
        raise RunError(f"{path}: not a readable image; run the analysis again") from error


def load_image(path: Path, max_side: int = MAX_SIDE) -> RgbImage:
    """Read an image, apply its EXIF rotation, and resize its longer side to `max_side` pixels.

    Raises:
        RunError: the file is not a readable image.
    """
    with open_image(path) as file:
        image = ImageOps.exif_transpose(file)
        scale = max_side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))


def placeholder(height: int, width: int, max_side: int = MAX_SIDE) -> RgbImage:
    """Return a grey image with the aspect ratio of (height, width)."""
    scale = max_side / max(height, width, 1)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)), 3)
    return np.full(shape, 128, dtype=np.uint8)


def image_or_placeholder(
    run: Run, image_id: int, shape: tuple[int, ...], max_side: int = MAX_SIDE
) -> RgbImage:
    """Return a run's image, or a placeholder of the aspect ratio of `shape` if it is missing."""
    try:
        return load_image(run.image(image_id), max_side)
    except RunError:
        return placeholder(shape[0], shape[1], max_side)


def overlay_mask(image: RgbImage, mask: Mask) -> RgbImage:
    """Draw the mask in red over a desaturated image, as in the paper's Figure 1.

    Desaturation keeps a red object from looking like a mask.
    """
    red, green, blue = (image[..., channel].astype(np.uint16) for channel in range(3))
    # Three quarters grey (the mean of the channels) and one quarter of the original color.
    faded = ((red + green + blue)[..., None] + image) // 4
    return tint(faded.astype(np.uint8), resize_mask(mask, image), MASK_COLOR)


def tint(image: RgbImage, mask: Mask, color: tuple[int, int, int]) -> RgbImage:
    """Blend `color` over a mask of the image's size and draw its outline."""
    tinted = image.copy()
    mixed = 0.45 * image[mask].astype(np.float32) + 0.55 * np.asarray(color, dtype=np.float32)
    tinted[mask] = mixed.astype(np.uint8)
    tinted[_outline(mask, width=max(1, max(mask.shape) // 160))] = color
    return tinted


def resize_mask(mask: Mask, image: RgbImage) -> Mask:
    """Resize a mask to the size of the image."""
    height, width = mask.shape
    return resize_grid(mask, (height, width), image)


def resize_grid(
    cells: npt.NDArray[T], extent: tuple[float, float], image: RgbImage
) -> npt.NDArray[T]:
    """Resize a grid to the size of the image by nearest neighbor.

    `extent` is the number of rows and columns of the grid that the image covers; the rest is
    padding.
    """
    rows, columns = (
        np.minimum(np.arange(side) * covered // side, count - 1).astype(int)
        for side, covered, count in zip(image.shape, extent, cells.shape, strict=False)
    )
    return cells[np.ix_(rows, columns)]


def concatenate(images: Sequence[RgbImage]) -> RgbImage:
    """Place images of one height side by side with white gaps."""
    gap = np.full((images[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([part for image in images for part in (gap, image)][1:], axis=1)


def _outline(mask: Mask, width: int) -> Mask:
    inner = mask
    for _ in range(width):
        padded = np.pad(inner, 1, mode="edge")
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner
