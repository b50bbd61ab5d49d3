"""docs/recording.md and docs/checkpoints.md agree with the declarations of the families."""

import re
from pathlib import Path
from typing import Any

from mpdiag.recording import (
    CANONICAL_NAMES,
    family_of,
    known_families,
    transformers_families,
)

DOCS = Path(__file__).parents[3] / "docs"


def table(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its header."""
    section = (DOCS / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row[2:-2].split(" | ")] for row in rows[1:]]


def test_names() -> None:
    found = {name.strip("`"): meaning for name, meaning in table("recording.md", "Names")}
    assert found == CANONICAL_NAMES


def test_families(tiny: Any) -> None:
    rows = table("recording.md", "Families")
    tensors = {name: re.findall(r"`(\w+)`", cell) for name, _, cell in rows}
    assert set(tensors) <= {family.name for family in known_families()}
    family = family_of(tiny.model)
    assert set(tensors[family.name]) == set(family.hooks(tiny.model)) & set(CANONICAL_NAMES)
    classes = {cls for name, models, _ in rows if name == family.name for cls in models.split(", ")}
    assert type(tiny.model).__name__ in classes


def test_matching_costs_and_instance_rules() -> None:
    documented = {}
    for types, costs, rule in table("checkpoints.md", "Models that transformers runs"):
        for model_type in re.findall(r"`(\w+)`", types):
            documented[model_type] = set(re.findall(r"`(\w+)`", costs)), rule.strip("`")
    terms = ("class_weight", "mask_weight", "dice_weight", "num_points")
    declared = {
        model_type: (
            {key for key, field in family.loss_keys.items() if field in terms},
            family.instance_rule,
        )
        for model_type, family in transformers_families().items()
    }
    assert documented == declared
