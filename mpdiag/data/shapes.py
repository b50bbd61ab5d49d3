"""The seven shapes of the synthetic data as signed distances, negative inside.

Each function takes float32 coordinates u, v of equal shape, in which the figure is about as large
as the unit disc, and returns the distance to its edge.
"""

from collections.abc import Callable
from math import cos, hypot, pi, sin
from typing import Any

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.floating[Any]]


def disc(u: Field, v: Field) -> Field:
    return np.hypot(u, v) - np.float32(0.88)


def square(u: Field, v: Field) -> Field:
    return np.maximum(np.abs(u), np.abs(v)) - np.float32(0.78)


def triangle(u: Field, v: Field) -> Field:
    """Equilateral triangle: intersection of three half-planes."""
    slanted = np.float32(sin(pi / 3)) * np.abs(u) + np.float32(0.5) * v
    return np.maximum(slanted, -v) - np.float32(0.58)


def star(u: Field, v: Field) -> Field:
    """Five-pointed star: folded to half a point, whose edge is one line."""
    outer, inner = 1.15, 0.5
    angle = np.abs((np.arctan2(v, u) + np.float32(pi / 5)) % np.float32(2 * pi / 5) - pi / 5)
    radius = np.hypot(u, v)
    along, across = inner * cos(pi / 5) - outer, inner * sin(pi / 5)
    length = hypot(along, across)
    x, y = radius * np.cos(angle) - outer, radius * np.sin(angle)
    offset: Field = x * (across / length) - y * (along / length)
    return offset


def ring(u: Field, v: Field) -> Field:
    return np.abs(np.hypot(u, v) - np.float32(0.74)) - np.float32(0.23)


def cross(u: Field, v: Field) -> Field:
    """Two bars of equal length."""
    across, along = np.abs(u), np.abs(v)
    bars = np.maximum(np.minimum(across, along), np.float32(0))
    return np.maximum(bars - np.float32(0.32), np.maximum(across, along) - np.float32(0.98))


def crescent(u: Field, v: Field) -> Field:
    """A disc minus a smaller, shifted disc."""
    cut: Field = np.float32(0.8) - np.hypot(u - np.float32(0.48), v)
    return np.maximum(np.hypot(u, v) - np.float32(1), cut)


SHAPES: tuple[Callable[[Field, Field], Field], ...] = (
    disc, square, triangle, star, ring, cross, crescent
)  # fmt: skip

EXTENT = 1.17
"""Upper bound of the distance of a shape's points from its centre."""
