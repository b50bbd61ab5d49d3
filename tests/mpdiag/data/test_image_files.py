"""Formats of image files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mpdiag.data.image_files import read_displayed_size, read_integer_map, read_rgb
from mpdiag.data.problems import DataProblem
from mpdiag.untrusted import IMAGE_FORMATS
from reports.mask_images import load_image

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
LOSSY = {"JPEG", "MPO", "GIF"}
OPTIONS: dict[str, dict[str, Any]] = {
    "MPO": {"save_all": True, "append_images": [Image.new("RGB", (30, 20))]},
    "WEBP": {"lossless": True},
}


@pytest.mark.parametrize("kind", ["MPO", *IMAGE_FORMATS])  # a phone writes MPO as JPEG
def test_color_images(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.jpg"
    Image.fromarray(PIXELS).save(path, kind, **OPTIONS.get(kind, {}))
    image = read_rgb(path)
    assert image.shape == PIXELS.shape and read_displayed_size(path) == (20, 30)
    assert kind in LOSSY or np.array_equal(image, PIXELS)
    assert load_image(path, 30).shape == PIXELS.shape


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("PNG", np.uint8), ("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.int32)],
)
def test_integer_maps(tmp_path: Path, kind: str, dtype: Any) -> None:
    path = tmp_path / "map"
    values = PIXELS[..., 0].astype(dtype) * (1 if dtype == np.uint8 else 250)
    Image.fromarray(values).save(path, kind)
    assert np.array_equal(read_integer_map(path), values)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.float32)]
)
def test_images_of_more_than_8_bits_are_refused(tmp_path: Path, kind: str, dtype: Any) -> None:
    """Pillow would cut them off at 255."""
    path = tmp_path / "image"
    Image.fromarray(PIXELS[..., 0].astype(dtype) * 250).save(path, kind)
    with pytest.raises(DataProblem, match="image: has more than 8 bits per channel; convert it"):
        read_rgb(path)


def test_other_format_names_the_formats(tmp_path: Path) -> None:
    path = tmp_path / "image.tga"
    Image.fromarray(PIXELS).save(path)
    with pytest.raises(DataProblem, match=r"is not an image in JPEG, .* or JPEG2000; convert it"):
        read_rgb(path)
