"""Results published in the MP-Former paper (CVPR 2023, arXiv 2303.07336).

reports/data/tables.json has the paper's tables in percent; null is a figure that is not available.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from mpdiag.config import PaperResult

# Main results that the paper's text mentions and whose tables are not available.
UNAVAILABLE_TABLES = ("cityscapes_val", "coco_val2017")

# Columns that are called by their metric in other tables.
_COLUMN_METRICS = {"ep12": "AP", "ep50": "AP"}


@dataclass(frozen=True, slots=True)
class PaperRow:
    """mIoU-L and Util of a model and part in Table 1; fractions of layers 1..L, None if unknown.

    `part` is matching or piloted. The paper matches its piloted queries again ("piloted, bipartite
    matching" in tables.json) and marks them with a star.
    """

    model: str
    part: str
    miou_l: tuple[float | None, ...]
    util: tuple[float | None, ...]


def table1() -> tuple[PaperRow, ...]:
    """Return the three models of the paper's Table 1."""
    return tuple(
        PaperRow(
            row["model"],
            row["part"].partition(",")[0],
            _fractions(row["miou_l"]),
            _fractions(row["util"]),
        )
        for row in _tables()["table1"]["rows"]
    )


def published_results(reference: PaperResult) -> dict[str, float | None]:
    """Return the results in percent by metric (PQ, AP, AP_S, mIoU, ...), None if unknown.

    Raises:
        KeyError: there is no such table, row or column.
    """
    if reference.table in UNAVAILABLE_TABLES:
        return dict.fromkeys(reference.results)
    rows = [row for row in _rows(reference.table) if _matches(row, reference)]
    if len(rows) != 1:
        raise KeyError(f"{reference.table}: {len(rows)} rows match {reference.row}")
    return {_COLUMN_METRICS.get(column, column): rows[0][column] for column in reference.results}


def published_ap(reference: PaperResult | None) -> float | None:
    """Return the published AP as a fraction; None if it is unknown."""
    value = None if reference is None else published_results(reference).get("AP")
    return None if value is None else value / 100


def rows_without_recipe(references: Sequence[PaperResult]) -> list[dict[str, Any]]:
    """Return the rows of the paper's Tables 2 to 7 that no reference names."""
    tables = [key for key in _tables() if re.fullmatch(r"table[2-7]_(?!note).*", key)]
    return [
        row
        for table in tables
        for row in _rows(table)
        if not any(x.table == table and _matches(row, x) for x in references)
    ]


def _rows(table: str) -> list[dict[str, Any]]:
    """Return the rows of a table; a group of labels and APs gives rows of these two columns."""
    content = _tables()[table]
    if isinstance(content, list):
        return content
    return [
        {group: label, "AP": value}
        for group, values in content.items()
        for label, value in values.items()
    ]


def _matches(row: Mapping[str, Any], reference: PaperResult) -> bool:
    return row.items() >= reference.row.items()


@cache
def _tables() -> dict[str, Any]:
    text = (files("reports") / "data" / "tables.json").read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables


def _fractions(percents: list[float | None]) -> tuple[float | None, ...]:
    return tuple(None if value is None else round(value / 100, 6) for value in percents)
