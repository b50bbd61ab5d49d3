import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from mpdiag.errors import RunError
from mpdiag.store import Run
from reports.formatting import UNAVAILABLE
from reports.table1 import build_table1, open_runs, run_labels, terminal_table

MakeRun = Callable[..., Path]


def test_values_of_the_summary(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run", part="piloted")
    table = build_table1([Run.open(path)])
    summary = json.loads((path / "summary.json").read_text())
    run, *published = table.rows
    assert run.miou_l == tuple(layer["miou_l"] for layer in summary["layers"])
    assert run.util == tuple(layer["util"] for layer in summary["layers"])
    assert run.piloted
    assert [row.name for row in published] == ["Mask2Former", "MP training", "Multi-layer MP"]
    assert [row.piloted for row in published] == [False, True, True]
    assert table.cells(run, "util") == [f"{100 * value:.1f}" for value in run.util if value]


def test_cells_without_value(tmp_path: Path, make_run: MakeRun) -> None:
    # One image, and image 1 has no objects: there is nothing to average for Util.
    table = build_table1([Run.open(make_run(tmp_path / "run", images=1, layers=11))])
    run, baseline = table.rows[0], table.rows[1]
    assert table.num_layers == 11
    assert table.cells(run, "util") == ["n/a"] * 11
    assert table.cells(baseline, "util")[4:] == [
        "78.5",
        UNAVAILABLE,
        "83.2",
        "83.2",
        "100.0",
        "",
        "",
    ]


def test_number_of_layer_columns(tmp_path: Path, make_run: MakeRun) -> None:
    short = Run.open(make_run(tmp_path / "short", layers=3))
    table = build_table1([short])
    assert table.num_layers == 9
    assert table.cells(table.rows[0], "miou_l")[3:] == [""] * 6


def test_equal_names_are_numbered(tmp_path: Path, make_run: MakeRun) -> None:
    runs = [
        Run.open(make_run(tmp_path / "a", images=1, name="MP")),
        Run.open(make_run(tmp_path / "b", images=1, name="MP", part="piloted")),
        Run.open(make_run(tmp_path / "c", images=1, name="MP")),
        Run.open(make_run(tmp_path / "d", images=1, name="baseline")),
    ]
    assert run_labels(runs) == ["MP (1)", "MP", "MP (2)", "baseline"]


def test_numbered_names_differ_from_those_of_others(tmp_path: Path, make_run: MakeRun) -> None:
    names = enumerate(["a", "a", "a (1)"])
    runs = open_runs([make_run(tmp_path / str(k), name=name, images=1) for k, name in names])
    assert run_labels(runs) == ["a (2)", "a (3)", "a (1)"]


def test_no_run() -> None:
    with pytest.raises(RunError, match="no run; give at least one run directory"):
        open_runs([])


@pytest.mark.parametrize("width", [80, 100])
def test_table_on_the_terminal(tmp_path: Path, make_run: MakeRun, width: int) -> None:
    path = make_run(tmp_path / "run", name="[bold]MP[/] [/nonsense]", part="piloted")
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(terminal_table([path]))
    text = capture.get()
    lines = text.splitlines()
    assert all(len(line) <= width for line in lines)
    assert "[bold]MP[/]" in text
    values = Run.open(path).summary["layers"]
    util = next(line for line in lines if "Util*" in line).split()
    assert util[-9:] == [f"{100 * layer['util']:.1f}" for layer in values]
    published = ["38.1", "65.5", "70.8", "73.5", "78.5", UNAVAILABLE, "83.2", "83.2", "100.0"]
    assert any(line.split()[-9:] == published for line in lines)


def test_names_of_the_demo_are_whole_in_a_narrow_terminal(
    tmp_path: Path, make_run: MakeRun, render: Callable[..., str]
) -> None:
    table = terminal_table([make_run(tmp_path / "run", images=2, name="multi-layer-mp-piloted")])
    assert "multi-layer-mp-piloted " in render(table, width=80)
