import numpy as np
import pytest

from mpdiag.data.scenes import (
    MIN_VISIBLE_PIXELS,
    MIN_VISIBLE_SHARE,
    THINGS,
    Scene,
    _place_shapes,
    draw_scene,
)
from mpdiag.data.shapes import EXTENT, SHAPES, cross, disc, ring, square, star

GRID = np.linspace(-1.5, 1.5, 601)
U, V = np.meshgrid(GRID, GRID)


def test_shapes_are_within_their_extent() -> None:
    for shape in SHAPES:
        inside = shape(U, V) < 0
        assert inside.any()
        assert np.max(np.hypot(U, V)[inside]) <= EXTENT


def test_shape_areas_by_geometry() -> None:
    cell = (GRID[1] - GRID[0]) ** 2

    def area(shape: object) -> float:
        return float((shape(U, V) < 0).sum() * cell)  # type: ignore[operator]

    assert area(disc) == pytest.approx(np.pi * 0.88**2, rel=0.01)
    assert area(square) == pytest.approx((2 * 0.78) ** 2, rel=0.01)
    assert area(ring) == pytest.approx(np.pi * (0.97**2 - 0.51**2), rel=0.01)
    assert area(cross) == pytest.approx(2 * 1.96 * 0.64 - 0.64**2, rel=0.01)
    assert area(star) == pytest.approx(5 * 1.15 * 0.5 * np.sin(np.pi / 5), rel=0.01)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(np.random.default_rng([1, index]), 96) for index in range(120)]


def test_scenes_have_two_to_ten_visible_objects(scenes: list[Scene]) -> None:
    counts = [len(scene.labels) for scene in scenes]
    assert min(counts) == 2 and max(counts) == 10
    for scene in scenes:
        assert scene.image.shape == (96, 96, 3) and scene.image.dtype == np.uint8
        visible = [int((scene.segments == k).sum()) for k in range(len(scene.labels))]
        assert min(visible) >= MIN_VISIBLE_PIXELS
        assert set(np.unique(scene.segments)) <= {-2, -1, *range(len(scene.labels))}


def test_objects_stay_visible() -> None:
    """Against a slow reference: pixels of each shape, and those that later shapes do not cover."""
    hidden = 0
    for index in range(40):
        segments = np.full((96, 96), -1, dtype=np.int16)
        shapes = _place_shapes(np.random.default_rng([2, index]), 96, segments)
        truth = np.full((96, 96), -1)
        for k, shape in enumerate(shapes):
            truth[shape.rows, shape.columns][shape.coverage > 0.5] = k
        np.testing.assert_array_equal(segments, truth)
        for k, shape in enumerate(shapes):
            in_image = int((shape.coverage > 0.5).sum())
            left = int((truth == k).sum())
            assert left >= MIN_VISIBLE_SHARE * in_image
            hidden += left < in_image
    assert hidden > 20  # occlusion occurs


def test_sizes_and_classes_vary(scenes: list[Scene]) -> None:
    areas = [(s.segments == k).sum() for s in scenes for k in range(len(s.labels))]
    assert np.percentile(areas, 90) > 6 * np.percentile(areas, 10)
    shares = np.bincount([k for s in scenes for k in s.labels], minlength=len(THINGS))
    assert np.all(shares / shares.sum() > 0.08)


def test_color_is_independent_of_class(scenes: list[Scene]) -> None:
    """Mean colors of the classes differ by less than 5 standard errors."""
    colors: list[list[np.ndarray]] = [[] for _ in THINGS]
    for scene in scenes:
        for k, label in enumerate(scene.labels):
            colors[label].append(scene.image[scene.segments == k].mean(0))
    everything = np.concatenate([np.array(group) for group in colors])
    for group in colors:
        error = everything.std(0) / np.sqrt(len(group))
        assert np.all(np.abs(np.mean(group, 0) - everything.mean(0)) < 5 * error)


def test_objects_contrast_with_their_surroundings(scenes: list[Scene]) -> None:
    """Few objects have the mean color of the pixels around them."""
    lost = total = 0
    for scene in scenes:
        for k in range(len(scene.labels)):
            mask = scene.segments == k
            grown = mask.copy()
            for axis in (0, 1):
                for step in (-2, 2):
                    grown |= np.roll(mask, step, axis)
            inside, outside = scene.image[mask].mean(0), scene.image[grown & ~mask].mean(0)
            lost += float(np.abs(inside - outside).sum()) < 25
            total += 1
    assert lost / total < 0.03
