"""Thumbnails and overlays of the dashboard."""

import io

import numpy as np
import pytest
from PIL import Image

from apps import drawing
from reports import palette

BLUE = (0, 90, 180)
CORNER = np.array([[True, False], [False, False]])


def image(height, width):
    return np.full((height, width, 3), BLUE, dtype=np.uint8)


def tint(below, color):
    return tuple(int(0.45 * b + 0.55 * c) for b, c in zip(below, color, strict=True))


def test_only_the_highlighted_gt_is_red():
    masks = np.stack([CORNER, CORNER[::-1, ::-1]])
    drawn = drawing.overlay_numbered_masks(image(200, 200), masks, highlighted=1)
    assert tuple(drawn[-1, -1]) == tint(BLUE, palette.MASK_COLOR)
    assert tuple(drawn[0, 0]) == tint(BLUE, palette.GT_COLORS[0])
    assert tuple(drawn[0, -1]) == BLUE


def test_label_is_inside_its_mask_even_for_a_ring():
    rows, columns = np.mgrid[:200, :200]
    radius = np.hypot(rows - 100, columns - 100)
    ring = (radius > 60) & (radius < 95)
    drawn = drawing.overlay_numbered_masks(np.zeros((200, 200, 3), dtype=np.uint8), ring[None])
    white = (drawn == 255).all(axis=2)
    assert white.any()
    assert ring[white].all()


def test_highlighted_gt_is_on_top_and_others_keep_their_colors():
    masks = np.zeros((3, 2, 2), dtype=bool)
    masks[0, 0], masks[1, :, 0], masks[2, 1] = True, True, True
    drawn = drawing.overlay_numbered_masks(image(200, 200), masks, highlighted=1)
    assert tuple(drawn[10, 10]) == tuple(drawn[190, 10]) == tint(BLUE, palette.MASK_COLOR)
    assert tuple(drawn[10, 190]) == tint(BLUE, palette.GT_COLORS[0])
    assert tuple(drawn[190, 190]) == tint(BLUE, palette.GT_COLORS[2])
    assert tuple(drawn[50, 99]) == palette.MASK_COLOR  # the outline
    assert tuple(drawn[50, 199]) == tint(BLUE, palette.GT_COLORS[0])  # none at the image's border


def test_number_of_numbers_is_limited(monkeypatch):
    written = []
    monkeypatch.setattr(
        drawing.ImageDraw.ImageDraw, "text", lambda self, xy, text, **_: written.append((xy, text))
    )
    masks = np.zeros((drawing.MAX_NUMBERS + 9, 1, 2), dtype=bool)
    masks[:, :, 1] = True
    drawing.overlay_numbered_masks(image(20, 40), masks, highlighted=len(masks) - 1)
    numbers = [*range(drawing.MAX_NUMBERS), len(masks) - 1]
    assert written == [((30, 10), str(number)) for number in numbers]


def test_empty_masks_and_no_masks_change_nothing():
    for masks in (np.zeros((0, 0, 0), bool), CORNER[None] & False):
        drawn = drawing.overlay_numbered_masks(image(20, 20), masks)
        np.testing.assert_array_equal(drawn, image(20, 20))


def test_outside_of_the_attention_mask_is_dark():
    drawn = drawing.darken_outside(image(20, 20), CORNER)
    assert (drawn[:10, :10] == BLUE).all()
    assert (drawn[10:] <= image(10, 20) // 4).all()
    assert (drawing.darken_outside(image(20, 20), CORNER & False) == BLUE).all()


def test_heatmap_is_yellower_for_higher_values():
    values = np.tile([0.0, 0.3, 0.7, 1.0], (3, 1))
    grey = np.full((3, 4, 3), 100, dtype=np.uint8)
    red, _, blue = drawing.overlay_heatmap(grey, values)[0].T.astype(int)
    assert (np.diff(red - blue) > 0).all()
    assert red[0] < blue[0] and red[-1] > blue[-1]


@pytest.mark.parametrize("size", [(640, 480), (300, 900)])
def test_thumbnails_are_padded_to_one_size(tmp_path, size):
    Image.new("RGB", size, (9, 99, 199)).save(tmp_path / "a.jpg", quality=95)
    thumbnail = np.asarray(Image.open(io.BytesIO(drawing.make_thumbnail(tmp_path / "a.jpg"))))
    width, height = drawing.THUMBNAIL_SIZE
    assert thumbnail.shape == (height, width, 4)
    covered = (thumbnail[..., 3] > 0).mean()
    expected = min(width / size[0], height / size[1]) ** 2 * size[0] * size[1] / (width * height)
    assert covered == pytest.approx(expected, abs=0.02)
    assert Image.open(io.BytesIO(drawing.placeholder_thumbnail())).size == drawing.THUMBNAIL_SIZE
