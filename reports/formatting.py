"""Text of table cells, and CSV files."""

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

UNAVAILABLE = "–"  # noqa: RUF001  (an en dash marks a published figure that is not available)
NO_VALUE = "n/a"
MINUS = "\N{MINUS SIGN}"
_FORMULA_STARTS = (*"=@+-\t\r\n", *"\uff1d\uff20\uff0b\uff0d")  # the latter are full-width
# A spreadsheet may split cells at separators other than the comma.
_LATER_FORMULA = re.compile(r'(?<=[;|\t])(?="*[=@+\-\uff1d\uff20\uff0b\uff0d])')


def format_percent(value: float | None, missing: str = NO_VALUE) -> str:
    """Return a fraction in percent with one decimal; `missing` for None and NaN."""
    return missing if value is None or math.isnan(value) else f"{100 * value:z.1f}"


def format_value(value: float, unit: str) -> str:
    """Return a value of a `LayerMetric`: fractions in percent, other units with two decimals."""
    if unit == "fraction":
        return format_percent(value)
    return NO_VALUE if math.isnan(value) else f"{value:.2f}"


def format_percents(
    values: Iterable[float | None], columns: int = 0, missing: str = NO_VALUE
) -> list[str]:
    """Return one cell per fraction, in percent, and empty cells up to `columns`."""
    cells = [format_percent(value, missing) for value in values]
    return cells + [""] * (columns - len(cells))


def format_difference(value: float, half_width: float | None = None) -> str:
    """Return a difference of fractions in percentage points, with its interval's half width."""
    interval = "" if half_width is None else f" ± {100 * half_width:.1f}"
    return f"{100 * value:+z.1f}{interval}".replace("-", MINUS)


def format_scores(labels: dict[str, str], scores: dict[str, Any] | None) -> str:
    """Return the known scores in percent with their labels, such as "AP 45.1, AP50 50.0"."""
    known = scores or {}
    return ", ".join(
        f"{label} {format_percent(known[key])}"
        for key, label in labels.items()
        if isinstance(known.get(key), int | float)
    )


def format_seed_count(count: int) -> str:
    """Return a number of seeds with its noun."""
    return "1 seed" if count == 1 else f"{count} seeds"


def join(items: Sequence[Any]) -> str:
    """Return the items separated by commas."""
    return ", ".join(map(str, items))


def part_name(part: str) -> str:
    """Return the paper's name of a part of the queries, given the name in run.json."""
    return "MP part" if part == "piloted" else f"{part} part"


def to_csv(table: pd.DataFrame) -> bytes:
    """Return a CSV file (RFC 4180). Formulas are escaped, since texts come from untrusted files."""
    stream = io.StringIO()
    # Cells that contain a character of the line terminator are quoted.
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(map(escape_formula, table.columns))
    for row in table.itertuples(index=False, name=None):
        writer.writerow("" if pd.isna(cell) else escape_formula(cell) for cell in row)
    return stream.getvalue().encode()


def escape_formula(cell: Any) -> Any:
    """Return the CSV cell, with an apostrophe before what a spreadsheet would run as a formula."""
    text = str(cell)
    escaped = _LATER_FORMULA.sub("'", text)
    if text.startswith(_FORMULA_STARTS) and not _is_number(text):
        return f"'{escaped}"
    return cell if escaped == text else escaped


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
