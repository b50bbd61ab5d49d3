"""Draw one synthetic scene: textured shapes on a cluttered background, with its segments.

Classes differ in their outline only: color, texture, size, stretch and rotation have the same
distribution for all. Masks contain the visible pixels. A shape that would hide too much of another
shape, or be hidden itself, is not placed.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import cos, exp, log, sin

import numpy as np
import numpy.typing as npt

from mpdiag.data.shapes import EXTENT, SHAPES, Field

THINGS = tuple(shape.__name__ for shape in SHAPES)
STUFF = ("smooth", "grainy")
"""The two background classes."""

MIN_VISIBLE_PIXELS = 20
MIN_VISIBLE_SHARE = 0.25
_OBJECTS = (2, 10)
_RADIUS = (0.085, 0.28)  # fraction of the image size; log-uniform
_TONES = (20, 235)


@dataclass(frozen=True, slots=True)
class Scene:
    """A drawn scene.

    Attributes:
        image: uint8 (S, S, 3), RGB.
        segments: int16 (S, S), index into `labels`, or -1 and -2 for the background classes.
        labels: class of each shape, an index of THINGS.
    """

    image: npt.NDArray[np.uint8]
    segments: npt.NDArray[np.int16]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class _Shape:
    """A placed shape: its window in the image and fields over the pixels of the window."""

    label: int
    rows: slice
    columns: slice
    u: Field
    v: Field
    coverage: Field  # fraction of the pixel inside the outline
    rim: Field  # 1 at the outline, 0 a few pixels inside


def draw_scene(rng: np.random.Generator, size: int) -> Scene:
    """Draw a scene of size x size pixels; the generator determines the result."""
    segments, canvas = _background(rng, size)
    noise = _smooth_noise(rng, size, size // 3)
    shapes = _place_shapes(rng, size, segments)
    for shape in shapes:
        _paint(rng, canvas, shape, noise)
    canvas += (rng.random(canvas.shape, dtype=np.float32) - np.float32(0.5)) * np.float32(18)
    image = np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    return Scene(pixels, segments, [shape.label for shape in shapes])


def _background(rng: np.random.Generator, size: int) -> tuple[npt.NDArray[np.int16], Field]:
    """Draw one or both background classes, separated by a wavy line, with clutter."""
    y, x = _grid(size)
    kinds = []
    for grain in (14, 60):
        kind = _smooth_noise(rng, size, 4) * _uniform(rng, -70, 70, (3, 1, 1))
        kind += _smooth_noise(rng, size, size // 2) * np.float32(grain)
        kinds.append(np.add(kind, _color(rng) - np.float32(grain / 2), out=kind))
    angle, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.12) * size
    pitch, shift = rng.uniform(3, 9) / size, rng.uniform(-0.75, 0.75) * size
    along = x * cos(angle) + (y * sin(angle) + (shift - size / 2 * (cos(angle) + sin(angle))))
    across = x * (-sin(angle) * pitch) + y * (cos(angle) * pitch)
    line = along + np.sin(across) * np.float32(height)
    segments = np.where(line < 0, -1, -2).astype(np.int16)
    share = np.clip(line + np.float32(0.5), 0, 1)
    canvas = kinds[0]
    canvas += (kinds[1] - canvas) * share
    _clutter(rng, canvas)
    return segments, canvas


def _clutter(rng: np.random.Generator, canvas: Field) -> None:
    """Draw soft blobs and thin lines, which are part of the background."""
    size = canvas.shape[-1]
    y, x = _grid(size)
    for _ in range(rng.integers(1, 4)):
        row, column = _uniform(rng, 0, size, 2)
        high, wide = _uniform(rng, 0.04 * size, 0.16 * size, 2)
        blob = np.exp(-(((y - row) / high) ** 2)) * np.exp(-(((x - column) / wide) ** 2))
        canvas += blob * _uniform(rng, -90, 90, (3, 1, 1))
    lines = int(rng.integers(2, 7))
    steps = np.arange(0, 0.6 * size, 0.5, dtype=np.float32)
    angle, bend = _uniform(rng, 0, np.pi, (lines, 1)), _uniform(rng, -2, 2, (lines, 1)) / size
    direction = angle + bend * steps
    start = _uniform(rng, 0, size, (2, lines, 1))
    rows = (start[0] + np.cumsum(np.sin(direction), axis=1) / 2).astype(np.int32)
    columns = (start[1] + np.cumsum(np.cos(direction), axis=1) / 2).astype(np.int32)
    drawn = steps < _uniform(rng, 0.1 * size, 0.6 * size, (lines, 1))
    drawn &= (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    colors = np.broadcast_to(_uniform(rng, *_TONES, (3, lines, 1)), (3, lines, len(steps)))
    canvas[:, rows[drawn], columns[drawn]] = colors[:, drawn]


def _place_shapes(
    rng: np.random.Generator, size: int, segments: npt.NDArray[np.int16]
) -> list[_Shape]:
    """Place 2 to 10 shapes from back to front and mark their visible pixels in `segments`."""
    wanted = int(rng.integers(_OBJECTS[0], _OBJECTS[1] + 1))
    shapes: list[_Shape] = []
    whole: list[int] = []  # pixels of each shape, inside and outside the image
    visible = np.zeros(0, dtype=np.int64)
    attempts = 0
    while len(shapes) < wanted and (attempts < 5 * wanted or len(shapes) < _OBJECTS[0]):
        attempts += 1
        shape, pixels = _random_shape(rng, size)
        inside = shape.coverage > 0.5
        window = segments[shape.rows, shape.columns]
        hidden = window[inside]
        left = visible - np.bincount(hidden[hidden >= 0], minlength=len(visible))
        left = np.append(left, np.count_nonzero(inside))
        needed = np.maximum(MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE * np.array([*whole, pixels]))
        if np.all(left >= needed):
            window[inside] = len(shapes)
            shapes.append(shape)
            whole.append(pixels)
            visible = left
    return shapes


def _random_shape(rng: np.random.Generator, size: int) -> tuple[_Shape, int]:
    """Return a random shape and its number of pixels without the cut at the image border."""
    label = int(rng.integers(len(SHAPES)))
    row, column, spread, stretch, angle = rng.random(5).tolist()
    radius = size * exp(log(_RADIUS[0]) + spread * log(_RADIUS[1] / _RADIUS[0]))
    row, column = (0.04 + 0.92 * row) * size, (0.04 + 0.92 * column) * size
    stretch, angle = 0.8 + 0.45 * stretch, 2 * np.pi * angle
    long, short = radius * stretch, radius / stretch
    reach = int(EXTENT * max(long, short)) + 2
    top, left = int(row) - reach, int(column) - reach
    span = np.arange(2 * reach + 1, dtype=np.float32)
    y, x = (span + np.float32(top + 0.5 - row))[:, None], span + np.float32(left + 0.5 - column)
    u = (x * np.float32(cos(angle)) + y * np.float32(sin(angle))) / np.float32(long)
    v = (y * np.float32(cos(angle)) - x * np.float32(sin(angle))) / np.float32(short)
    distance = SHAPES[label](u, v) * np.float32(min(long, short))
    pixels = int(np.count_nonzero(distance < 0))
    rows = slice(max(top, 0), min(top + len(span), size))
    columns = slice(max(left, 0), min(left + len(span), size))
    cut = (
        slice(rows.start - top, rows.stop - top),
        slice(columns.start - left, columns.stop - left),
    )
    distance = distance[cut]
    coverage = np.clip(np.float32(0.5) - distance, 0, 1)
    rim = np.clip(1 + distance / np.float32(2.5), 0, 1)
    return _Shape(label, rows, columns, u[cut], v[cut], coverage, rim), pixels


def _paint(rng: np.random.Generator, canvas: Field, shape: _Shape, noise: Field) -> None:
    """Blend the shape into the canvas, in two colours mixed by a random texture."""
    window = canvas[:, shape.rows, shape.columns]
    around = window[:, ::4, ::4].mean(axis=(1, 2), keepdims=True)
    choices = _uniform(rng, *_TONES, (3, 3, 1, 1))
    first = choices[np.abs(choices - around).sum(axis=1).argmax()]  # contrast to the background
    difference = _uniform(rng, 35, 110, (3, 1, 1)) * np.float32(rng.choice((-1, 1)))
    color = _texture(rng, shape, noise) * difference
    color += first
    color *= 1 - np.float32(rng.uniform(0, 0.5)) * shape.rim
    color -= window
    color *= shape.coverage
    window += color


def _texture(rng: np.random.Generator, shape: _Shape, noise: Field) -> Field:
    """Return a field in 0..1 over the window: stripes, dots, a gradient, noise, or nearly flat."""
    kind = rng.integers(5)
    angle, pitch = rng.uniform(0, np.pi), np.float32(rng.uniform(4, 9))
    along = shape.u * np.float32(cos(angle)) + shape.v * np.float32(sin(angle))
    texture: Field
    if kind == 0:
        texture = np.float32(0.5) + np.float32(2) * np.sin(along * pitch)
    elif kind == 1:
        across = shape.v * np.float32(cos(angle)) - shape.u * np.float32(sin(angle))
        texture = np.float32(0.5) + np.float32(2) * np.sin(along * pitch) * np.sin(across * pitch)
    elif kind == 2:
        texture = np.float32(0.5) + np.float32(0.5) * along
    else:
        texture = noise[shape.rows, shape.columns] * np.float32(1 if kind == 3 else 0.3)
    return np.clip(texture, 0, 1)


def _color(rng: np.random.Generator) -> Field:
    return _uniform(rng, *_TONES, (3, 1, 1))


def _uniform(
    rng: np.random.Generator, low: float, high: float, form: int | tuple[int, ...]
) -> Field:
    return np.float32(low) + rng.random(form, dtype=np.float32) * np.float32(high - low)


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Field:
    """Return (size, size) noise in 0..1 that varies over size / cells pixels."""
    weights = _interpolation(size, cells)
    return weights @ rng.random((cells + 1, cells + 1), dtype=np.float32) @ weights.T


@lru_cache(maxsize=16)
def _interpolation(size: int, cells: int) -> Field:
    """Return the (size, cells + 1) weights of linear interpolation between cells + 1 knots."""
    at = (np.arange(size) + 0.5) * (cells / size)
    nearness: Field = 1 - np.abs(at[:, None] - np.arange(cells + 1))
    return np.clip(nearness, 0, 1).astype(np.float32)


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Field, Field]:
    """Return the rows (size, 1) and columns (size,) of the pixel centres."""
    x: Field = np.arange(size, dtype=np.float32) + np.float32(0.5)
    y: Field = x[:, None]
    return y, x
