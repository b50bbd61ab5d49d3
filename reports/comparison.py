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
from mpdiag.store import LAYER_METRICS, Comparison, LayerMetric
from mpdiag.store.files import replace_file, replace_json
from reports.formatting import NO_VALUE, format_value, to_csv
from reports.layer_tables import PAPER_METRICS
from reports.run_facts import SCORE_LABELS


def comparison_tables(comparison: Comparison) -> Iterator[Table]:
    """Yield tables for the terminal: settings that differ, metrics, scores, images and classes.

    The paper's metrics are shown in full, any other metric for the layer in which it differs most.
    Fractions are in percent.
    """
    if comparison.settings:
        table = _table("", ("Different settings", "a", "b"))
        table.columns[0].no_wrap = True
        for setting in table.columns[1:]:  # values may be long
            setting.no_wrap = False
            setting.overflow = "fold"
        for key, values in comparison.settings.items():
            table.add_row(Text(key), *(Text(format_setting(value)) for value in values))
        yield table
    yield _paper_metrics(comparison)
    others = _other_metrics(comparison)
    if others.row_count:
        yield others
    if not comparison.scores.empty:
        table = _table("", ("Last layer", "a", "b", "b - a"))
        for row in comparison.scores.to_dict("records"):
            score = str(row["score"])
            table.add_row(Text(SCORE_LABELS.get(score, score)), *_values(row, "fraction"))
        yield table
    for moved, column, what in (
        (comparison.moved_images, "file_name", "Images"),
        (comparison.moved_classes, "class", "Classes"),
    ):
        for metric, rows in _by_metric(moved):
            if metric.name not in PAPER_METRICS:
                continue
            columns = (f"{what} by {metric.label} over all layers", "a", "b", "b - a")
            table = _table("", columns)
            for row in rows:
                table.add_row(Text(str(row[column])), *_values(row, metric.unit))
            yield table


def _paper_metrics(comparison: Comparison) -> Table:
    table = _table(
        f"b: {comparison.b}, a: {comparison.a}, {comparison.images:,} images",
        ("", "layer", "a", "b", "b - a", "95% interval", ""),
        "* the 95% interval over resampled images excludes 0",
    )
    for metric, rows in _by_metric(comparison.layers):
        if metric.name in PAPER_METRICS:
            for number, row in enumerate(rows):
                table.add_row(metric.label if not number else "", *_layer_cells(row, metric.unit))
            table.add_section()
    return table


def _other_metrics(comparison: Comparison) -> Table:
    table = _table("", ("Largest difference", "layer", "a", "b", "b - a", "95% interval", ""))
    for metric, rows in _by_metric(comparison.layers):
        known = [row for row in rows if not math.isnan(row["difference"])]
        if metric.name not in PAPER_METRICS and known:
            largest = max(known, key=lambda row: abs(row["difference"]))
            table.add_row(metric.label, *_layer_cells(largest, metric.unit))
    return table


def _layer_cells(row: dict[Any, Any], unit: str) -> tuple[str, ...]:
    low, high = (_signed(row[end], unit) for end in ("low", "high"))
    significant = row["low"] > 0 or row["high"] < 0
    mark = "*" if significant else ""
    return str(row["layer"]), *_values(row, unit), f"{low} to {high}", mark


def format_setting(value: Any) -> str:
    """Return the text of a setting's value."""
    return NO_VALUE if value is None else value if isinstance(value, str) else json.dumps(value)


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write a .json file (one list per table) or a .csv file (one row per value), as fractions.

    Only the .json file has the settings that differ.

    Raises:
        ConfigError: the file has another suffix.
    """
    tables = {
        field.name: getattr(comparison, field.name)
        for field in fields(comparison)
        if isinstance(getattr(comparison, field.name), pd.DataFrame)
    }
    if path.suffix == ".json":
        content: dict[str, Any] = {
            name: getattr(comparison, name) for name in ("a", "b", "images", "settings")
        }
        # JSON has no NaN, which a run that someone else made may have in its settings.
        content = json.loads(json.dumps(content), parse_constant=str)
        replace_json(path, content | {name: _records(table) for name, table in tables.items()})
    elif path.suffix == ".csv":
        rows = pd.concat([table.assign(table=name) for name, table in tables.items()])
        first = ["table", *(c for c in ("metric", "score", "layer") if c in rows)]
        rows = rows[[*first, *(c for c in rows if c not in first)]]
        replace_file(path, to_csv(rows))
    else:
        raise ConfigError(f"--output {path}: unknown suffix; give a .json or .csv file")


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return records


def _by_metric(table: pd.DataFrame) -> Iterator[tuple[LayerMetric, list[dict[Any, Any]]]]:
    """Yield each metric of the table and its rows."""
    for name, metric in LAYER_METRICS.items():
        rows = [] if table.empty else table[table["metric"] == name].to_dict("records")
        if rows:
            yield metric, rows


def _table(title: str, columns: tuple[str, ...], caption: str = "") -> Table:
    table = Table(
        title=Text(title) if title else None,
        caption=caption or None,
        title_justify="left",
        caption_justify="left",
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=number > 0)
    return table


def _values(row: dict[Any, Any], unit: str) -> list[str]:
    values = [format_value(row[run], unit) for run in ("a", "b")]
    return [*values, _signed(row["difference"], unit)]


def _signed(value: float, unit: str) -> str:
    if math.isnan(value):
        return NO_VALUE
    return f"{100 * value:+z.1f}" if unit == "fraction" else f"{value:+z.2f}"
