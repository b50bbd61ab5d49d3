"""CSV files that a spreadsheet opens, and the output and formats of `mpdiag report`."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from mpdiag.cli import app
from mpdiag.errors import ConfigError
from mpdiag.store import Run, compare
from reports.comparison import write_comparison
from reports.formatting import to_csv

MakeRun = Callable[..., Path]

FORMULAS = [
    "=1+1",
    "@SUM(A1)",
    "+1+1",
    "-1+cmd|' /C calc'!A0",
    "--1",
    "-",
    "\t=1",
    "\r=1",
    "\n=1",
    "=1\r=2",
    "\N{FULLWIDTH EQUALS SIGN}1",
    "\N{FULLWIDTH COMMERCIAL AT}SUM(A1)",
    "\N{FULLWIDTH PLUS SIGN}1",
    "\N{FULLWIDTH HYPHEN-MINUS}1+1",
]


def read_csv(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_in_cells_and_column_names_are_escaped(text: str) -> None:
    assert read_csv(to_csv(pd.DataFrame({text: [text]}))) == [[f"'{text}"]] * 2


def test_a_line_break_in_a_cell_starts_no_row() -> None:
    data = to_csv(pd.DataFrame({"name": ["a\r=1+1", "b\n=1+1", 'c"\r\n=1+1']}))
    assert read_csv(data) == [["name"], ["a\r=1+1"], ["b\n=1+1"], ['c"\r\n=1+1']]


def test_numbers_are_not_changed() -> None:
    cells = [-0.5, 3, -7, "-0.5", "+2", "-1e-3", None, "a=b", "mid-word"]
    saved = to_csv(pd.DataFrame({"x": pd.Series(cells, dtype=object)}))
    expected = ["x", "-0.5", "3", "-7", "-0.5", "+2", "-1e-3", "", "a=b", "mid-word"]
    assert read_csv(saved) == [[cell] for cell in expected]


def test_names_in_run_json_are_escaped_in_all_files(tmp_path: Path, make_run: MakeRun) -> None:
    paths = [make_run(tmp_path / x, images=2, layers=1, name=f"={x}", part="=1+1") for x in "ab"]
    assert mpdiag("report", *paths, "--output", tmp_path, "--formats", "csv").exit_code == 0
    cells = {cell for row in read_csv((tmp_path / "report.csv").read_bytes()) for cell in row}
    assert {"'=a", "'=b", "'=1+1"} <= cells
    write_comparison(compare(*map(Run.open, paths)), tmp_path / "compare.csv")
    cells |= {cell for row in read_csv((tmp_path / "compare.csv").read_bytes()) for cell in row}
    assert not [cell for cell in cells if cell.startswith("=")]


def mpdiag(*words: object):
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.mark.parametrize(
    ("folder", "run", "output"),
    [
        ("runs/a", ".", "runs/a-report"),
        ("runs/a/masks", "..", "runs/a-report"),
        ("runs/a/masks", "../../a/masks/..", "runs/a-report"),
        ("runs", "a", "runs/a-report"),
        ("runs", "a/", "runs/a-report"),
        ("", "runs/a", "runs/a-report"),
    ],
)
def test_the_report_is_beside_the_run(
    tmp_path: Path,
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    run: str,
    output: str,
) -> None:
    make_run(tmp_path / "runs" / "a", images=1, layers=1)
    monkeypatch.chdir(tmp_path / folder)
    found = mpdiag("report", run, "--formats", "csv")
    assert found.exit_code == 0, found.output
    assert (tmp_path / output / "report.csv").is_file()
    assert len(list(tmp_path.rglob("report.csv"))) == 1


def test_the_root_directory_is_no_run() -> None:
    found = mpdiag("report", "/")
    assert found.exit_code == 1 and "run.json" in str(found.exception)


def test_formats_may_have_spaces(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "a", images=1, layers=1)
    assert mpdiag("report", run, "--formats", "md, html ").exit_code == 0
    names = {path.name for path in (tmp_path / "a-report").iterdir()}
    assert names == {"report.md", "report.html", "curves.svg", "curves.png"}
    for formats in ("", "md,", "pdf", "md html", "\x1b[2J"):
        found = mpdiag("report", run, "--formats", formats)
        assert isinstance(found.exception, ConfigError), formats
        assert "unknown report format" in str(found.exception)
        assert "\x1b" not in str(found.exception)
