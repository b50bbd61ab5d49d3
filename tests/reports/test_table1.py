import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from mpdiag.errors import RunError
from mpdiag.store import Run
from reports.formatting import UNAVAILABLE
from reports.table1 import build_table, open_runs, print_table, run_labels

MakeRun = Callable[..., Path]


def test_values_are_those_of_the_summary(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run", part="piloted")
    table = build_table([Run.open(path)])
    summary = json.loads((path / "summary.json").read_text())
    run, *published = table.series
    assert run.miou_l == tuple(layer["miou_l"] for layer in summary["layers"])
    assert run.util == tuple(layer["util"] for layer in summary["layers"])
    assert run.piloted
    assert [series.name for series in published] == ["Mask2Former", "MP training", "Multi-layer MP"]
    assert [series.piloted for series in published] == [False, True, True]
    assert table.cells(run, "util") == [f"{100 * value:.1f}" for value in run.util if value]


def test_cells_that_have_no_figure(tmp_path: Path, make_run: MakeRun) -> None:
    # One image, and image 1 has no objects: there is nothing to average for Util.
    table = build_table([Run.open(make_run(tmp_path / "run", images=1, layers=11))])
    run, baseline = table.series[0], table.series[1]
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


def test_columns_reach_the_deepest_run(tmp_path: Path, make_run: MakeRun) -> None:
    short = Run.open(make_run(tmp_path / "short", layers=3))
    table = build_table([short])
    assert table.num_layers == 9
    assert table.cells(table.series[0], "miou_l")[3:] == [""] * 6


def test_runs_of_the_same_name_are_numbered(tmp_path: Path, make_run: MakeRun) -> None:
    runs = [
        Run.open(make_run(tmp_path / "a", images=1, name="MP")),
        Run.open(make_run(tmp_path / "b", images=1, name="MP", part="piloted")),
        Run.open(make_run(tmp_path / "c", images=1, name="MP")),
        Run.open(make_run(tmp_path / "d", images=1, name="baseline")),
    ]
    assert run_labels(runs) == ["MP (1)", "MP", "MP (2)", "baseline"]


def test_no_run_is_refused() -> None:
    with pytest.raises(RunError, match=r"^No run was given: name at least one run directory"):
        open_runs([])


@pytest.mark.parametrize("width", [80, 100])
def test_table_on_the_terminal(tmp_path: Path, make_run: MakeRun, width: int) -> None:
    path = make_run(tmp_path / "run", name="[bold]MP[/] [/nonsense]", part="piloted")
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(print_table([path]))
    text = capture.get()
    lines = text.splitlines()
    assert all(len(line) <= width for line in lines)
    assert "[bold]MP[/]" in text
    values = Run.open(path).summary["layers"]
    util = next(line for line in lines if "Util*" in line).split()
    assert util[-9:] == [f"{100 * layer['util']:.1f}" for layer in values]
    assert f"38.1  65.5  70.8  73.5  78.5     {UNAVAILABLE}  83.2  83.2  100.0" in text
