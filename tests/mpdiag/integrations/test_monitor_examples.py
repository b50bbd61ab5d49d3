"""The examples of the monitor run at their smallest size."""

import csv
import runpy
import sys
from pathlib import Path

import pytest

from mpdiag.data import generate_synthetic
from mpdiag.store.run import Run

EXAMPLES = Path(__file__).parents[3] / "examples"


def run_example(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    path = EXAMPLES / name
    assert len(path.read_text().splitlines()) < 120
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(path), run_name="__main__")


def test_custom_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--steps", 2, "--every", 2, "--batch-size", 1, "--output", tmp_path / "run"]
    run_example("custom_loop.py", monkeypatch, *options)
    assert "step 2: loss" in capsys.readouterr().out
    run = Run.open(tmp_path / "run")
    assert run.summary["num_images"] == 16 and run.num_layers == 3
    assert [entry["name"] for entry in run.header["classes"]] == ["disc", "square"]


@pytest.mark.filterwarnings("ignore")  # of Lightning
def test_finetune_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytorch_lightning")
    pytest.importorskip("transformers")
    from .test_transformers_callback import small_model

    small_model().save_pretrained(tmp_path / "model")
    generate_synthetic(tmp_path / "data", train=2, val=1, size=64)
    output = tmp_path / "output"
    options = ["--steps", 2, "--batch-size", 1, "--every", 1, "--crop", 64, "--output", output]
    run_example(
        "finetune_lightning.py",
        monkeypatch,
        tmp_path / "data",
        "--model",
        tmp_path / "model",
        *options,
    )
    rows = list(csv.DictReader(next(output.glob("logs/*/metrics.csv")).open()))
    assert any(row["miou_l/1"] for row in rows) and any(row["val/miou_l/1"] for row in rows)
    assert Run.open(output / "run").summary["num_images"] == 1
    assert (output / "model.safetensors").is_file()
