"""The tables of docs/metrics.md and docs/run-directory.md match the declarations in the code."""

import re
from pathlib import Path

import pyarrow as pa

from mpdiag.store import LAYER_METRICS, SCHEMA_VERSION
from mpdiag.store.aggregates import AGGREGATES
from mpdiag.store.schema import COLUMNS, Column

DOCS = Path(__file__).parents[3] / "docs"
METRICS = (DOCS / "metrics.md").read_text(encoding="utf-8")
RUN_DIRECTORY = (DOCS / "run-directory.md").read_text(encoding="utf-8")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_metrics_md_has_a_row_for_every_layer_metric() -> None:
    section = METRICS.split("## All metrics of a layer")[1].split("\n## ")[0]
    rows = [cells(line) for line in section.splitlines() if line.startswith("| `")]
    directions = {True: "higher", False: "lower", None: ""}
    assert [row[:5] for row in rows] == [
        [f"`{m.name}`", m.label, m.unit, directions[m.higher_is_better], str(m.first_layer)]
        for m in LAYER_METRICS.values()
    ]
    assert all(row[5] for row in rows)


def test_run_directory_md_has_the_columns_of_the_schema() -> None:
    for table, columns in COLUMNS.items():
        section = RUN_DIRECTORY.split(f"\n## {table}\n")[1].split("\n## ")[0]
        found = [line for line in section.splitlines() if line.startswith("| `")]
        assert found == [documented(column) for column in columns], table


def test_run_directory_md_names_the_schema_version_and_the_aggregates() -> None:
    assert f"schema version {SCHEMA_VERSION}." in RUN_DIRECTORY
    assert f"| `schema_version` | {SCHEMA_VERSION} |" in RUN_DIRECTORY
    assert set(re.findall(r"`(image_\w+)` has a row", RUN_DIRECTORY)) == AGGREGATES.keys()


def documented(column: Column) -> str:
    meaning = column.meaning + (f" ({column.since})" if column.since > 1 else "")
    return f"| `{column.name}` | {documented_type(column.type)} | {meaning} |"


def documented_type(arrow: pa.DataType) -> str:
    if pa.types.is_list(arrow):
        return f"list of {documented_type(arrow.value_type)}"
    return {"double": "float64", "float": "float32"}.get(str(arrow), str(arrow))
