"""Formats of image files."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from mpdiag.data.image_files import read_displayed_size, read_integer_map, read_rgb, read_size
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


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)], ids=["RGB", "LA", "RGBA"])
def test_color_pngs_of_16_bits_are_refused(tmp_path: Path, kind: int, channels: int) -> None:
    """Pillow would drop the low bytes; it cannot write such files."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    row = b"\0" + np.full(3 * channels, 300, ">u2").tobytes()
    (tmp_path / "image.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 16, kind, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(row * 2))
        + chunk(b"IEND", b"")
    )
    assert read_size(tmp_path / "image.png") == (2, 3)
    with pytest.raises(DataProblem, match=r"image\.png: has more than 8 bits per channel"):
        read_rgb(tmp_path / "image.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_sizes_before_and_after_rotation(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "image"
    Image.fromarray(PIXELS).save(path, kind, exif=exif)
    assert read_size(path) == (20, 30)
    expected = (30, 20) if orientation >= 5 else (20, 30)
    assert read_displayed_size(path) == read_rgb(path).shape[:2] == expected


def test_other_format_names_the_formats(tmp_path: Path) -> None:
    path = tmp_path / "image.tga"
    Image.fromarray(PIXELS).save(path)
    with pytest.raises(DataProblem, match=r"is not an image in JPEG, .* or JPEG2000; convert it"):
        read_rgb(path)
