"""Read image files as arrays: RGB images and integer maps."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from mpdiag.data.problems import MISSING_FILE, DataProblem
from mpdiag.untrusted import IMAGE_FORMATS, open_regular

MAX_PIXELS = 178_956_970
"""Number of pixels of an image above which Pillow refuses to open it."""

_16_BITS = re.compile(r";16[BLN]")  # in Pillow's names of pixels in a file, with the byte order

Result = TypeVar("Result")


def read_size(path: Path) -> tuple[int, int]:
    """Return the (height, width) of an image from its header, before rotation by EXIF.

    Raises:
        DataProblem: the file is missing or is not an image.
    """
    return _read(path, _stored_size)


def read_displayed_size(path: Path) -> tuple[int, int]:
    """Return the (height, width) of an image from its header, after rotation by EXIF.

    Raises:
        DataProblem: the file is missing or is not an image.
    """
    return _read(path, _displayed_size)


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """Return the (H, W, 3) pixels of an image, rotated by its EXIF orientation as in detectron2.

    Raises:
        DataProblem: the file is missing, cannot be decoded, or has more than 8 bits per channel,
            which Pillow would cut off at 255, or to the high byte if the image has colors.
    """

    def decode(file: ImageFile.ImageFile) -> npt.NDArray[np.uint8]:
        if file.mode == "F" or file.mode.startswith("I") or _16_BITS.search(str(file.tile)):
            raise DataProblem(
                "image of more than 8 bits",
                f"{path}: has more than 8 bits per channel; convert it to 8 bits",
            )
        return np.array(ImageOps.exif_transpose(file).convert("RGB"))

    return _read(path, decode)


def read_integer_map(path: Path) -> npt.NDArray[np.int32]:
    """Return the (H, W) values of a single-channel image of 8, 16 or 32 bits, or of a palette.

    Raises:
        DataProblem: the file is missing, cannot be decoded, has several channels, or has values
            that are not integers.
    """
    values: npt.NDArray[Any] = _read(path, lambda file: np.array(file))
    if values.ndim != 2:
        raise DataProblem(
            "color image instead of a map",
            f"{path}: has {values.shape[2]} channels where a map has one; give the folder of the "
            "annotations",
        )
    if values.dtype.kind == "f":
        raise DataProblem(
            "unreadable image", f"{path}: contains fractions; give a map of class or instance ids"
        )
    return values.astype(np.int32)


def _stored_size(file: ImageFile.ImageFile) -> tuple[int, int]:
    if isinstance(file, TiffImageFile):  # Pillow may give its size after the rotation
        return file.tag_v2[IMAGELENGTH], file.tag_v2[IMAGEWIDTH]
    return file.height, file.width


def _displayed_size(file: ImageFile.ImageFile) -> tuple[int, int]:
    height, width = _stored_size(file)
    rotated = file.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)  # by 90 degrees
    return (width, height) if rotated else (height, width)


def _read(path: Path, decode: Callable[[ImageFile.ImageFile], Result]) -> Result:
    try:
        with open_regular(path) as stream, Image.open(stream, formats=IMAGE_FORMATS) as file:
            return decode(file)
    except FileNotFoundError:
        raise DataProblem(
            MISSING_FILE, f"{path}: file not found; download it or correct the image folder"
        ) from None
    except UnidentifiedImageError:
        raise DataProblem(
            "unreadable image",
            f"{path}: is not an image in {', '.join(IMAGE_FORMATS[:-1])} or {IMAGE_FORMATS[-1]}; "
            "convert it or download it again",
        ) from None
    except DataProblem:
        raise
    except Exception as error:  # Pillow raises errors of many types for a broken file
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataProblem(
            "unreadable image", f"{path}: image cannot be read ({reason}); download it again"
        ) from None
