"""Masks drawn over images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpdiag.errors import RunError
from reports import mask_images


def test_overlay_is_red_only_inside_the_mask() -> None:
    image = np.full((40, 60, 3), (0, 90, 180), dtype=np.uint8)
    mask = np.array([[True, False], [False, False]])
    red, green, blue = mask_images.overlay_mask(image, mask).astype(int).transpose(2, 0, 1)
    reddish = red > np.maximum(green, blue) + 50
    assert reddish[:20, :30].all()
    assert reddish.sum() == 20 * 30


def test_red_image_without_a_mask_is_desaturated() -> None:
    image = np.full((20, 20, 3), (255, 0, 0), dtype=np.uint8)
    red, green, _ = mask_images.overlay_mask(image, np.zeros((5, 5), dtype=bool)).T.astype(int)
    assert (red - green < 80).all()


def test_overlay_does_not_modify_its_input() -> None:
    image = np.full((20, 20, 3), (0, 90, 180), dtype=np.uint8)
    before = image.copy()
    mask_images.overlay_mask(image, np.ones((2, 2), dtype=bool))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("size", [(96, 96), (640, 480), (1000, 3)])
def test_images_are_resized_to_one_longer_side(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    height, width, channels = mask_images.load_image(tmp_path / "a.png").shape
    assert (max(height, width), channels) == (mask_images.MAX_SIDE, 3)
    assert min(height, width) == max(1, round(mask_images.MAX_SIDE * min(size) / max(size)))
    assert mask_images.placeholder(size[1], size[0]).shape == (height, width, channels)


def test_error_names_the_unreadable_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8 truncated")
    with pytest.raises(RunError, match=r"a\.jpg"):
        mask_images.load_image(tmp_path / "a.jpg")


def test_images_are_concatenated_with_gaps() -> None:
    image = np.full((20, 30, 3), (0, 90, 180), dtype=np.uint8)
    row = mask_images.concatenate([image, image // 2])
    assert row.shape == (20, 60 + mask_images.GAP, 3)
    np.testing.assert_array_equal(row[:, -30:], image // 2)
    assert (row[:, 30:-30] == 255).all()


def test_padding_of_a_grid_is_cut_off() -> None:
    """The image covers 1.5 of 2 rows and all 3 columns of the grid; the rest is padding."""
    image = np.zeros((30, 60, 3), dtype=np.uint8)
    resized = mask_images.resize_grid(np.arange(6).reshape(2, 3), (1.5, 3.0), image)
    assert resized.shape == (30, 60)
    assert (resized[:20, :20] == 0).all() and (resized[20:, :20] == 3).all()
    assert (resized[:20, 40:] == 2).all() and (resized[20:, 20:40] == 4).all()
