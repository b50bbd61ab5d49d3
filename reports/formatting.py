"""Fractions as the texts of table cells, and what a cell of a CSV may be."""

import math
from collections.abc import Sequence
from typing import Any

UNAVAILABLE = "–"  # noqa: RUF001  (an en dash is what tables show for an unknown figure)
NO_VALUE = "n/a"


def format_percents(values: Sequence[float | None], columns: int, missing: str) -> list[str]:
    """Percent with one decimal; `missing` for None and NaN, and empty cells up to `columns`."""
    cells = [
        missing if value is None or math.isnan(value) else f"{100 * value:.1f}" for value in values
    ]
    return cells + [""] * (columns - len(cells))


MINUS = "\N{MINUS SIGN}"


def format_difference(value: float, half: float | None = None) -> str:
    """A difference of fractions in percentage points, with the half of its interval."""
    interval = "" if half is None else f" ± {100 * half:.1f}"
    return f"{100 * value:+z.1f}{interval}".replace("-", MINUS)


def format_seed_count(count: int) -> str:
    """A number of seeds in words."""
    return "1 seed" if count == 1 else f"{count} seeds"


def part_name(part: str) -> str:
    """A part of the queries, as run.json has it, in the paper's words."""
    return "MP part" if part == "piloted" else f"{part} part"


def escape_formula(cell: Any) -> Any:
    """The cell of a CSV, quoted where a spreadsheet would take it for a formula; numbers stay."""
    text = str(cell)
    if not text.startswith(("=", "@", "+", "-", "\t", "\r")):
        return cell
    try:
        float(text)
    except ValueError:
        return f"'{cell}"
    return cell
