"""Figures that the MP-Former paper (CVPR 2023, arXiv 2303.07336) published.

reports/data/tables.json is a copy of its tables in percent; null there is a figure that our copy
of the paper does not show legibly, and it stays unknown.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class PaperRow:
    """A row pair of the paper's Table 1: fractions for layers 1..L, None where unknown."""

    model: str
    part: str
    miou_l: tuple[float | None, ...]
    util: tuple[float | None, ...]


@cache
def table1() -> tuple[PaperRow, ...]:
    """The three row pairs of the paper's Table 1."""
    text = (files("reports") / "data" / "tables.json").read_text(encoding="utf-8")
    return tuple(
        PaperRow(row["model"], row["part"], _fractions(row["miou_l"]), _fractions(row["util"]))
        for row in json.loads(text)["table1"]["rows"]
    )


def _fractions(percents: list[float | None]) -> tuple[float | None, ...]:
    return tuple(None if value is None else round(value / 100, 6) for value in percents)
