"""Image files read as arrays: pictures in RGB, and maps of numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from mpdiag.data.problems import MISSING_FILE, DataProblem

Pixels = TypeVar("Pixels", bound=npt.NDArray[Any])


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """(H, W, 3) pixels, upright by the EXIF orientation as in detectron2.

    Raises DataProblem where the file is missing or can't be decoded.
    """
    return _read(path, lambda file: np.array(ImageOps.exif_transpose(file).convert("RGB")))


def read_integer_map(path: Path) -> npt.NDArray[np.int32]:
    """(H, W) numbers of a picture with one channel of 8, 16 or 32 bits, or a palette.

    Raises DataProblem where the file is missing, can't be decoded or has several channels.
    """
    numbers = _read(path, lambda file: np.array(file))
    if numbers.ndim != 2:
        raise DataProblem(
            "picture in place of a map",
            f"{path} has {numbers.shape[2]} channels where a map of numbers has one: give the"
            " folder with the annotations",
        )
    return numbers.astype(np.int32)


def _read(path: Path, decode: Callable[[Image.Image], Pixels]) -> Pixels:
    try:
        with Image.open(path) as file:
            return decode(file)
    except FileNotFoundError:
        raise DataProblem(
            MISSING_FILE, f"there is no file {path}: fetch what is missing or point to its folder"
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error) or type(error).__name__
        raise DataProblem(
            "unreadable image", f"image {path} can't be read ({reason}): fetch it anew"
        ) from None
