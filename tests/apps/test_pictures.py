import io

import numpy as np
import pytest
from PIL import Image

from apps import palette, pictures
from mpdiag.errors import RunError


def checkerboard(height, width):
    """A mask of 2 x 2 cells, the first on."""
    mask = np.zeros((2, 2), dtype=bool)
    mask[0, 0] = True
    picture = np.full((height, width, 3), (0, 90, 180), dtype=np.uint8)
    return picture, mask


def tint(below, color):
    return tuple(int(0.45 * b + 0.55 * c) for b, c in zip(below, color, strict=True))


def test_red_lies_where_the_mask_is_and_nowhere_else():
    picture, mask = checkerboard(40, 60)
    red, green, blue = pictures.red_over(picture, mask).astype(int).transpose(2, 0, 1)
    reddish = red > np.maximum(green, blue) + 50
    assert reddish[:20, :30].all()
    assert reddish.sum() == 20 * 30


def test_an_empty_mask_leaves_no_red_even_on_a_red_picture():
    picture = np.full((20, 20, 3), (255, 0, 0), dtype=np.uint8)
    red, green, _ = pictures.red_over(picture, np.zeros((5, 5), dtype=bool)).T.astype(int)
    assert (red - green < 80).all()


def test_the_picture_itself_is_not_painted():
    picture, mask = checkerboard(20, 20)
    before = picture.copy()
    pictures.red_over(picture, mask)
    pictures.numbered_over(picture, mask[None])
    np.testing.assert_array_equal(picture, before)


def test_the_marked_object_alone_is_red():
    picture, mask = checkerboard(200, 200)
    masks = np.stack([mask, mask[::-1, ::-1]])
    shown = pictures.numbered_over(picture, masks, marked=1)
    assert tuple(shown[-1, -1]) == tint((0, 90, 180), palette.MASK)
    assert tuple(shown[0, 0]) == tint((0, 90, 180), palette.GT[0])
    np.testing.assert_array_equal(shown[0, -1], picture[0, -1])


def test_an_object_is_numbered_within_its_mask_even_if_it_is_a_ring():
    rows, columns = np.mgrid[:200, :200]
    radius = np.hypot(rows - 100, columns - 100)
    ring = (radius > 60) & (radius < 95)
    shown = pictures.numbered_over(np.zeros((200, 200, 3), dtype=np.uint8), ring[None])
    white = (shown == 255).all(axis=2)
    assert white.any()
    assert ring[white].all()


def test_objects_without_a_cell_and_images_without_objects_are_ordinary():
    picture, mask = checkerboard(20, 20)
    np.testing.assert_array_equal(
        pictures.numbered_over(picture, np.zeros((0, 0, 0), bool)), picture
    )
    np.testing.assert_array_equal(pictures.numbered_over(picture, mask[None] & False), picture)


@pytest.mark.parametrize("size", [(96, 96), (640, 480), (1000, 3)])
def test_pictures_are_brought_to_one_size(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "a.png")
    height, width, channels = pictures.load(tmp_path / "a.png").shape
    assert (max(height, width), channels) == (pictures.SIDE, 3)
    assert min(height, width) == max(1, round(pictures.SIDE * min(size) / max(size)))
    assert pictures.blank(size[1], size[0]).shape == (height, width, channels)


def test_a_broken_picture_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8 no more")
    with pytest.raises(RunError, match=r"a\.jpg"):
        pictures.load(tmp_path / "a.jpg")


def test_what_is_attended_stays_and_the_rest_is_dark():
    picture, mask = checkerboard(20, 20)
    shown = pictures.lit(picture, mask)
    np.testing.assert_array_equal(shown[:10, :10], picture[:10, :10])
    assert (shown[10:] <= picture[10:] // 4).all()
    np.testing.assert_array_equal(pictures.lit(picture, mask & False), picture)


def test_pictures_stand_in_a_row_with_gaps():
    picture, _ = checkerboard(20, 30)
    row = pictures.row([picture, picture // 2])
    assert row.shape == (20, 60 + pictures.GAP, 3)
    np.testing.assert_array_equal(row[:, -30:], picture // 2)
    assert (row[:, 30:-30] == 255).all()


@pytest.mark.parametrize("size", [(640, 480), (300, 900)])
def test_thumbnails_are_whole_and_of_one_size(tmp_path, size):
    Image.new("RGB", size, (9, 99, 199)).save(tmp_path / "a.jpg", quality=95)
    shown = np.asarray(Image.open(io.BytesIO(pictures.thumbnail(tmp_path / "a.jpg"))))
    width, height = pictures.THUMBNAIL
    assert shown.shape == (height, width, 4)
    covered = (shown[..., 3] > 0).mean()
    whole = min(width / size[0], height / size[1]) ** 2 * size[0] * size[1] / (width * height)
    assert covered == pytest.approx(whole, abs=0.02)
    assert Image.open(io.BytesIO(pictures.no_thumbnail())).size == pictures.THUMBNAIL


def test_a_grid_lies_on_the_part_of_it_that_the_image_covers():
    """Of 2 x 3 cells the image has 1 row and a half, and all columns; the rest is padding."""
    picture = np.zeros((30, 60, 3), dtype=np.uint8)
    cells = np.arange(6).reshape(2, 3)
    spread = pictures.spread(cells, (1.5, 3.0), picture)
    assert spread.shape == (30, 60)
    assert (spread[:20, :20] == 0).all() and (spread[20:, :20] == 3).all()
    assert (spread[:20, 40:] == 2).all() and (spread[20:, 20:40] == 4).all()


def test_a_share_is_as_yellow_as_it_is_large():
    picture = np.full((3, 4, 3), 100, dtype=np.uint8)
    shares = np.tile([0.0, 0.3, 0.7, 1.0], (3, 1))
    red, _, blue = pictures.heated(picture, shares)[0].T.astype(int)
    assert (np.diff(red - blue) > 0).all()
    assert red[0] < blue[0] and red[-1] > blue[-1]
