"""docs/recording.md tells of every name and family, and what each has."""

import re
from pathlib import Path
from typing import Any

from mpdiag.recording import CANONICAL, family_of, known_families

TEXT = (Path(__file__).parents[3] / "docs" / "recording.md").read_text()


def table(heading: str) -> list[list[str]]:
    """Cells of the table below a heading, without its head."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row[2:-2].split(" | ")] for row in rows[1:]]


def test_names() -> None:
    found = {name.strip("`"): meaning for name, meaning in table("Names")}
    assert found == CANONICAL


def test_families(tiny: Any) -> None:
    rows = {name: re.findall(r"`(\w+)`", has) for name, _, has in table("Families")}
    names = [family.name for family in known_families()]
    assert set(rows) <= set(names)
    family = family_of(tiny.model)
    assert set(rows[family.name]) == set(family.taps(tiny.model)) & set(CANONICAL)
    assert type(tiny.model).__name__ in {
        cls
        for name, models, _ in table("Families")
        if name == family.name
        for cls in models.split(", ")
    }
