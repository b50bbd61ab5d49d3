"""Read image files as arrays: RGB images and integer maps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from mpdiag.data.problems import MISSING_FILE, DataProblem

Pixels = TypeVar("Pixels", bound=npt.NDArray[Any])


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """Return the (H, W, 3) pixels of an image, rotated by its EXIF orientation as in detectron2.

    Raises:
        DataProblem: the file is missing or cannot be decoded.
    """
    return _read(path, lambda file: np.array(ImageOps.exif_transpose(file).convert("RGB")))


def read_integer_map(path: Path) -> npt.NDArray[np.int32]:
    """Return the (H, W) values of a single-channel image of 8, 16 or 32 bits, or of a palette.

    Raises:
        DataProblem: the file is missing, cannot be decoded, or has several channels.
    """
    values = _read(path, lambda file: np.array(file))
    if values.ndim != 2:
        raise DataProblem(
            "color image instead of a map",
            f"{path}: has {values.shape[2]} channels where a map has one; give the folder of the "
            "annotations",
        )
    return values.astype(np.int32)


def _read(path: Path, decode: Callable[[Image.Image], Pixels]) -> Pixels:
    try:
        with Image.open(path) as file:
            return decode(file)
    except FileNotFoundError:
        raise DataProblem(
            MISSING_FILE, f"{path}: file not found; download it or correct the image folder"
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error) or type(error).__name__
        raise DataProblem(
            "unreadable image", f"{path}: image cannot be read ({reason}); download it again"
        ) from None
