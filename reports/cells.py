"""Fractions as the texts of table cells."""

import math
from collections.abc import Sequence

UNKNOWN = "–"  # noqa: RUF001  (an en dash is what tables show for an unknown figure)
NO_VALUE = "n/a"


def percents(values: Sequence[float | None], columns: int, missing: str) -> list[str]:
    """Percent with one decimal; `missing` for None and NaN, and empty cells up to `columns`."""
    cells = [
        missing if value is None or math.isnan(value) else f"{100 * value:.1f}" for value in values
    ]
    return cells + [""] * (columns - len(cells))
