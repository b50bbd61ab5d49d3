"""Figures that the MP-Former paper (CVPR 2023, arXiv 2303.07336) published.

reports/data/tables.json is a copy of its tables in percent; null there is a figure that our copy
of the paper does not show legibly, and it stays unknown.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from mpdiag.config import Published

# Main results that the text speaks of ("Table ??"), whose tables our copy of the paper lacks.
LOST = ("cityscapes_val", "coco_val2017")

# Columns of one table that another calls by their metric.
_METRICS = {"ep12": "AP", "ep50": "AP"}


@dataclass(frozen=True, slots=True)
class PaperRow:
    """A row pair of the paper's Table 1: fractions for layers 1..L, None where unknown.

    `part` is matching or piloted. The paper's piloted rows are matched again ("piloted, bipartite
    matching" in tables.json), which the star in its table and ours says.
    """

    model: str
    part: str
    miou_l: tuple[float | None, ...]
    util: tuple[float | None, ...]


def table1() -> tuple[PaperRow, ...]:
    """The three row pairs of the paper's Table 1."""
    return tuple(
        PaperRow(
            row["model"],
            row["part"].partition(",")[0],
            _fractions(row["miou_l"]),
            _fractions(row["util"]),
        )
        for row in _tables()["table1"]["rows"]
    )


def published(reference: Published) -> dict[str, float | None]:
    """Figures in percent by metric (PQ, AP, AP_S, mIoU, ...), None where unknown.

    Raises:
        KeyError: no such table, row or column.
    """
    if reference.table in LOST:
        return dict.fromkeys(reference.results)
    found = [row for row in _rows(reference.table) if _is(row, reference)]
    if len(found) != 1:
        raise KeyError(f"{reference.table}: {len(found)} rows are {reference.row}")
    return {_METRICS.get(column, column): found[0][column] for column in reference.results}


def without_recipe(references: Sequence[Published]) -> list[dict[str, Any]]:
    """Rows of the paper's Tables 2 to 7 that no reference points to."""
    tables = [key for key in _tables() if re.fullmatch(r"table[2-7]_(?!note).*", key)]
    return [
        row
        for table in tables
        for row in _rows(table)
        if not any(x.table == table and _is(row, x) for x in references)
    ]


def _rows(table: str) -> list[dict[str, Any]]:
    """Rows of a table; those that are groups of label and AP are rows of these two columns."""
    content = _tables()[table]
    if isinstance(content, list):
        return content
    return [
        {group: label, "AP": value}
        for group, values in content.items()
        for label, value in values.items()
    ]


def _is(row: Mapping[str, Any], reference: Published) -> bool:
    return row.items() >= reference.row.items()


@cache
def _tables() -> dict[str, Any]:
    text = (files("reports") / "data" / "tables.json").read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables


def _fractions(percents: list[float | None]) -> tuple[float | None, ...]:
    return tuple(None if value is None else round(value / 100, 6) for value in percents)
