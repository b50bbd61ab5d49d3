"""Stored cross-attention of a query in a decoder layer, one byte per cell."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mpdiag import rle

LEVELS = 255


@dataclass(frozen=True, slots=True)
class StoredAttention:
    """Cross-attention of one query in one decoder layer, on the grid of the attended feature map.

    Attributes:
        weights: (height, width) float32, averaged over heads; they sum to 1 up to rounding to
            multiples of the highest weight / 255. 0 where the query may not attend.
        mask: (height, width) bool, True where the query may attend; None if the model has no
            attention masks.
        image: rows and columns of the grid, from its upper left corner, that show the image; may be
            fractions. The rest is padding.
    """

    weights: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_] | None
    image: tuple[float, float]


def pack(weights: npt.NDArray[np.float32]) -> tuple[bytes, float]:
    """Return the weights as one byte each and the weight of one step; NaN and infinity become 0."""
    finite = np.nan_to_num(weights, nan=0.0, posinf=0.0, neginf=0.0)
    step = float(finite.max()) / LEVELS
    levels = finite.astype(np.float64) / (step or 1.0)
    return np.rint(levels).astype(np.uint8).tobytes(), step


def bounded_columns_sql(layers: int) -> str:
    """Return the SQL of all columns, with weights and counts NULL if they are too long.

    Too long means longer than the grid has cells, or together more than `rle.MAX_CELLS` for all
    layers: a small compressed file can hold values that exhaust memory when they are fetched.
    """
    cells = "height::BIGINT * width"
    fits = (
        f"{cells} <= {rle.MAX_CELLS // (layers + 1)} AND octet_length(weights) <= {cells} "
        f"AND coalesce(octet_length(counts) <= {cells} + 1, true)"
    )
    bounded = (f"CASE WHEN {fits} THEN {name} END AS {name}" for name in ("weights", "counts"))
    return f"* REPLACE ({', '.join(bounded)})"


def unpack(rows: pd.DataFrame, layers: int) -> list[StoredAttention]:
    """Return layers 1..L from the rows of one query (mpdiag.store.schema.ATTENTION), in order.

    Raises:
        ValueError: layers or values are missing, or the sizes do not match.
    """
    if rows["layer"].tolist() != list(range(1, layers + 1)):
        raise ValueError("layers are missing")
    return [_unpack(row) for row in rows.astype(object).to_dict("records")]


def _unpack(row: dict[Hashable, Any]) -> StoredAttention:
    packed, counts = row["weights"], row["counts"]
    if any(pd.isna(row[name]) for name in ("height", "width", "step")):
        raise ValueError("values are missing")
    grid, step = (int(row["height"]), int(row["width"])), float(row["step"])
    image = (float(row["image_height"]), float(row["image_width"]))
    if not isinstance(packed, bytes | bytearray) or len(packed) != grid[0] * grid[1] or not packed:
        raise ValueError("the number of weights is not the number of cells")
    if not 0 <= step <= 1:
        raise ValueError("the step is not in 0..1")
    if not all(0 < part <= whole for part, whole in zip(image, grid, strict=True)):
        raise ValueError("the image is larger than the grid")
    levels = np.frombuffer(packed, np.uint8).reshape(grid)
    mask = rle.decode(bytes(counts), *grid) if isinstance(counts, bytes | bytearray) else None
    return StoredAttention((levels * step).astype(np.float32), mask, image)
