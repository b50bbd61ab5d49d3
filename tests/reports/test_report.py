import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpdiag.errors import ConfigError, RunError
from mpdiag.store import Run, Thresholds
from mpdiag.store.schema import TABLES
from reports import write_report
from reports.formatting import NO_VALUE
from reports.layer_tables import layer_tables

MakeRun = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("without_curves")


def test_facts_of_the_run(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", images=4, name="Baseline")
    write_report([run], tmp_path, ("md",))
    text = (tmp_path / "report.md").read_text()
    for fact in (
        "## Run Baseline (matching part)",
        r"| Checkpoint | run/model\_final.pth (sha256 0123456789ab…) |",
        r"| Data set | synthetic val (instances\_val.json) |",
        "| Images | 4 with 6 objects |",
        "| Analysed | 2025-01-02 03:04 UTC on cpu in 2 s |",
        "| Method | baseline |",
        "| Architecture | resnet18 backbone, 2 encoder layers, 9 decoder layers, 64 channels |",
        "| Versions | mpdiag 0.1.0, torch 2.9.0 |",
        "Table 1 leaves such pairs out",
    ):
        assert fact in text


def test_scores_of_the_last_layer(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    scores = {
        "ap": {"ap": 0.4512, "ap50": 0.5, "ap_small": None},
        "pq": {"pq": 0.521, "pq_things": 0.6, "rq_stuff": 0.1},
        "miou": {"miou": 0.4789, "miou_in_gt": 0.48},
    }
    (run / "summary.json").write_text(json.dumps({**summary, **scores}))
    write_report([run], tmp_path, ("md",))
    text = (tmp_path / "report.md").read_text()
    assert "| AP of the last layer | AP 45.1, AP50 50.0 |" in text
    assert "| PQ of the last layer | PQ 52.1, PQ^Th 60.0 |" in text
    assert "| mIoU of the last layer | mIoU 47.9, mIoU of classes in the GT 48.0 |" in text


def test_header_of_few_entries(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run")
    kept = {"schema_version": 1, "finished": True}
    (run / "run.json").write_text(json.dumps(kept))
    write_report([run], tmp_path / "out")
    assert "## Run run (unknown part)" in (tmp_path / "out" / "report.md").read_text()


def test_errors_come_before_writing(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run")
    output = tmp_path / "out"
    with pytest.raises(ConfigError) as error:
        write_report([run], output, ("md", "docx"))
    assert str(error.value) == "unknown report format 'docx'; choose from md, html, tex, csv"
    with pytest.raises(ConfigError, match="unknown report format 'none'"):
        write_report([run], output, ())
    with pytest.raises(RunError, match="missing does not exist; give the directory of a run"):
        write_report([run, tmp_path / "missing"], output)
    with pytest.raises(RunError, match="no run; give at least one"):
        write_report([], output)
    assert not output.exists()
    output.write_text("other")
    with pytest.raises(RunError, match="out: is a file; give a directory for the report"):
        write_report([run], output)
    assert output.read_text() == "other"


def test_store_and_reports_open_without_torch() -> None:
    code = "import sys, mpdiag.store, reports; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_thresholds_of_transitions(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run")
    write_report([run], tmp_path, ("md",), Thresholds(kept_iou=0.2))
    text = (tmp_path / "report.md").read_text()
    assert "kept if the IoU is at least 0.2" in text
    pairs = Run.open(run).query("SELECT area, area_prev, iou_prev FROM queries WHERE layer = 1")
    kept = (pairs.area == 0) & (pairs.area_prev == 0) | (pairs.iou_prev >= 0.2)
    assert 0 < kept.mean() < 1
    row = next(line for line in text.splitlines() if line.startswith("| kept: nearly"))
    assert float(row.split("|")[3]) == pytest.approx(100 * kept.mean(), abs=0.05)


def test_transitions_of_a_layer_without_finite_masks(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", layers=3)
    shutil.rmtree(run / "aggregates")
    for path in (run / "queries").iterdir():
        rows = pq.read_table(path).to_pandas()
        rows.loc[rows["layer"] == 0, "area"] = None
        table = pa.Table.from_pandas(rows, TABLES["queries"], preserve_index=False)
        pq.write_table(table, path)
    opened = Run.open(run)
    shares = opened.transitions().query("transition == 'kept'").set_index("layer")["share"]
    (table,) = (x for x in layer_tables(opened) if x.title == "Transitions")
    (kept,) = (row.cells for row in table.rows if row.cells[0].startswith("kept: "))
    assert kept[1:] == ("", NO_VALUE, f"{100 * shares[2]:.1f}", f"{100 * shares[3]:.1f}")
