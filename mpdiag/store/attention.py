"""Where a query may look, and looks, in a decoder layer: weights of cross-attention as bytes."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mpdiag.store import rle

LEVELS = 255


@dataclass(frozen=True, slots=True)
class Attention:
    """One query in one decoder layer, on the grid of the map that the layer attends to.

    Attributes:
        weights: (height, width) float32, averaged over heads; their sum is 1 but for rounding to
            steps of a 255th of the highest. 0 where the query may not look.
        mask: (height, width) bool, True where the query may look; None where the model has no
            such masks.
        image: rows and columns of the grid that the image covers from its upper left corner,
            which need not be whole; beyond them is padding.
    """

    weights: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_] | None
    image: tuple[float, float]


def pack(weights: npt.NDArray[np.float32]) -> tuple[bytes, float]:
    """Weights as a byte each, and what one step of a byte is worth; NaN and infinities become 0."""
    finite = np.nan_to_num(weights, nan=0.0, posinf=0.0, neginf=0.0)
    step = float(finite.max()) / LEVELS
    levels = finite.astype(np.float64) / (step or 1.0)
    return np.rint(levels).astype(np.uint8).tobytes(), step


def unpack(rows: pd.DataFrame, layers: int) -> list[Attention]:
    """Layers 1..L from the rows of one query (mpdiag.store.schema.ATTENTION), in their order.

    Raises ValueError where the rows are not these layers, or don't hold what their sizes say.
    """
    if rows["layer"].tolist() != list(range(1, layers + 1)):
        raise ValueError("layers are missing")
    return [_unpack(row) for row in rows.astype(object).to_dict("records")]


def _unpack(row: dict[Hashable, Any]) -> Attention:
    packed, counts = row["weights"], row["counts"]
    if any(pd.isna(row[name]) for name in ("height", "width", "step")):
        raise ValueError("values are missing")
    grid, step = (int(row["height"]), int(row["width"])), float(row["step"])
    image = (float(row["image_height"]), float(row["image_width"]))
    if not isinstance(packed, bytes | bytearray) or len(packed) != grid[0] * grid[1] or not packed:
        raise ValueError("the weights are not as many as the cells")
    if not 0 <= step <= 1:
        raise ValueError("a step is no share")
    if not all(0 < part <= whole for part, whole in zip(image, grid, strict=True)):
        raise ValueError("the image is larger than the grid")
    levels = np.frombuffer(packed, np.uint8).reshape(grid)
    mask = rle.decode(bytes(counts), *grid) if isinstance(counts, bytes | bytearray) else None
    return Attention((levels * step).astype(np.float32), mask, image)
