"""A comparison of two runs as tables for the terminal, and as JSON or CSV."""

import json
import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import rich.box
from rich.table import Table
from rich.text import Text

from mpdiag.errors import ConfigError
from mpdiag.store import Comparison
from mpdiag.store.files import replace_file, replace_json
from reports.formatting import NO_VALUE, escape_formula

METRICS = {"miou_l": "mIoU-L", "util": "Util"}


def comparison_tables(found: Comparison) -> Iterator[Table]:
    """How they were made, if otherwise; differences by layer, scores of the last layer, and what
    moved most, in percent.
    """
    if found.settings:
        table = _table(None, None, ("Made otherwise", "a", "b"))
        for key, values in found.settings.items():
            table.add_row(key, *(Text(format_setting(value)) for value in values))
        yield table
    table = _table(
        f"b: {found.b}, a: {found.a}, {found.images:,} images",
        "* the 95% interval over resampled images leaves out 0",
        ("", "layer", "a", "b", "b - a", "95% interval", ""),
    )
    for metric, label in METRICS.items():
        rows = _of_metric(found.layers, metric)
        for position, row in enumerate(rows):
            sure = row["low"] > 0 or row["high"] < 0
            table.add_row(
                label if not position else "",
                str(row["layer"]),
                *_percents(row),
                f"{_signed(row['low'])} to {_signed(row['high'])}",
                "*" if sure else "",
            )
        table.add_section()
    yield table
    if not found.scores.empty:
        table = _table(None, None, ("Last layer", "a", "b", "b - a"))
        for row in found.scores.to_dict("records"):
            table.add_row(Text(str(row["score"]).upper().replace("MIOU", "mIoU")), *_percents(row))
        yield table
    for moved, column, what in (
        (found.moved_images, "file_name", "Images"),
        (found.moved_classes, "class", "Classes"),
    ):
        for metric, label in METRICS.items():
            rows = _of_metric(moved, metric)
            if not rows:
                continue
            table = _table(None, None, (f"{what} by {label} of all layers", "a", "b", "b - a"))
            for row in rows:
                table.add_row(Text(str(row[column])), *_percents(row))
            yield table


def format_setting(value: Any) -> str:
    """A setting's value."""
    return NO_VALUE if value is None else value if isinstance(value, str) else json.dumps(value)


def write_comparison(found: Comparison, path: Path) -> None:
    """Write it to a .json (one list a table) or a .csv (one row a value, as fractions).

    Settings that differ stand in the .json alone.

    Raises ConfigError for another ending.
    """
    tables = {
        field.name: getattr(found, field.name)
        for field in fields(found)
        if isinstance(getattr(found, field.name), pd.DataFrame)
    }
    if path.suffix == ".json":
        content: dict[str, Any] = {
            "a": found.a, "b": found.b, "images": found.images, "settings": found.settings
        }  # fmt: skip
        replace_json(path, content | {name: _records(table) for name, table in tables.items()})
    elif path.suffix == ".csv":
        rows = pd.concat([table.assign(table=name) for name, table in tables.items()])
        first = ["table", *(c for c in ("metric", "score", "layer") if c in rows)]
        rows = rows[[*first, *(c for c in rows if c not in first)]]
        replace_file(
            path, rows.map(escape_formula).to_csv(index=False, lineterminator="\n").encode()
        )
    else:
        raise ConfigError(f"--output {path}: give a file that ends in .json or .csv")


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return records


def _of_metric(table: pd.DataFrame, metric: str) -> list[dict[Any, Any]]:
    return [] if table.empty else table[table["metric"] == metric].to_dict("records")


def _table(title: str | None, caption: str | None, columns: tuple[str, ...]) -> Table:
    table = Table(
        title=None if title is None else Text(title),
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=number > 0)
    return table


def _percents(row: dict[Any, Any]) -> list[str]:
    values = [NO_VALUE if math.isnan(row[key]) else f"{100 * row[key]:.1f}" for key in ("a", "b")]
    return [*values, _signed(row["difference"])]


def _signed(value: float) -> str:
    return NO_VALUE if math.isnan(value) else f"{100 * value:+z.1f}"
