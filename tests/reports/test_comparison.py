"""Tables and files of the comparison of two runs."""

import csv
import io
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mpdiag.errors import ConfigError
from mpdiag.store import LAYER_METRICS, Comparison, Run, compare
from reports.comparison import comparison_tables, write_comparison

MakeRun = Callable[..., Path]


@pytest.fixture
def found(tmp_path: Path, make_run: MakeRun) -> Comparison:
    paths = [
        make_run(tmp_path / name, images=8, layers=3, seed=seed, name=f"[b]{name}")
        for seed, name in enumerate("ab")
    ]
    for file in (paths[1] / "targets").glob("*.parquet"):  # the same GT in both
        shutil.copy(paths[0] / "targets" / file.name, file)
    for path in paths:
        summary = json.loads((path / "summary.json").read_text())
        (path / "summary.json").write_text(json.dumps({**summary, "ap": {"ap": 0.25}}))
    header = json.loads((paths[1] / "run.json").read_text())
    settings = {**header["settings"], "short_side": 736, "note": "[b]", "[/x]": 1}
    (paths[1] / "run.json").write_text(json.dumps({**header, "settings": settings}))
    return compare(*map(Run.open, paths))


def test_tables_for_the_terminal(found: Comparison) -> None:
    console = Console(width=100, file=io.StringIO())
    for table in comparison_tables(found):
        console.print(table)
    text = console.file.getvalue()
    assert "b: [b]b, a: [b]a, 8 images" in text  # names are no markup
    row = found.layers.iloc[0]
    assert f"{100 * row['difference']:+.1f}" in text
    assert f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}" in text
    assert "AP" in text and "25.0" in text and "+0.0" in text
    assert "Images by Util over all layers" in text and "disc" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["settings.short_side", "n/a", "736"] in lines
    assert ["settings.note", "n/a", "[b]"] in lines
    assert ["settings.[/x]", "n/a", "1"] in lines
    assert all(metric.label in text for metric in LAYER_METRICS.values())


def test_settings_have_their_names_however_long_the_values_are(found: Comparison) -> None:
    console = Console(width=80, file=io.StringIO())
    settings = {"architecture.notes": ["a note of some words. " * 9, "another note. " * 9]}
    console.print(next(comparison_tables(replace(found, settings=settings))))
    text = console.file.getvalue()
    assert "architecture.notes" in text and "Different settings" in text
    assert text.count("another") == 9 and "…" not in text


def test_csv_escapes_formulas(found: Comparison, tmp_path: Path) -> None:
    moved = found.moved_classes.assign(**{"class": "=1+1"})
    write_comparison(replace(found, moved_classes=moved), tmp_path / "x.csv")
    rows = list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
    assert {row["class"] for row in rows} == {"", "'=1+1"}
    differences = [float(row["difference"]) for row in rows if row["table"] == "moved_classes"]
    assert differences == pytest.approx(moved["difference"].tolist())
    assert min(differences) < 0  # which begin with a sign, and stay numbers


def test_files(found: Comparison, tmp_path: Path) -> None:
    write_comparison(found, tmp_path / "x.json")
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["images"] == 8
    assert content["settings"]["settings.note"] == [None, "[b]"]
    assert content["layers"][0]["difference"] == pytest.approx(found.layers["difference"][0])
    settings = {"settings.x": (None, math.nan)}  # of an untrusted run
    write_comparison(replace(found, settings=settings), tmp_path / "nan.json")
    content = json.loads((tmp_path / "nan.json").read_text())
    assert content["settings"] == {"settings.x": [None, "NaN"]}
    write_comparison(found, tmp_path / "x.csv")
    rows = list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
    assert {row["table"] for row in rows} == {
        "layers", "scores", "moved_images", "moved_classes"
    }  # fmt: skip
    assert float(rows[0]["low"]) == pytest.approx(found.layers["low"][0])
    with pytest.raises(ConfigError, match=r"x\.txt: unknown suffix; give a \.json or \.csv file"):
        write_comparison(found, tmp_path / "x.txt")
