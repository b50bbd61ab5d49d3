"""A reproduction of a few steps from training to report, and its repetition."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mpdiag.reproduce import ReproductionOptions, reproduce, select_size
from mpdiag.store import Run

QUIET = Console(quiet=True)
FEW = (
    "model.hidden_dim=32",
    "model.mask_dim=32",
    "model.encoder_layers=1",
    "model.decoder_layers=2",
    "model.num_queries=12",
    "model.backbone={name: resnet18, channels: [8, 8, 16, 16], stem_channels: 8, norm: batch}",
    "init=null",
    "data.batch_size=2",
    "schedule.warmup_iterations=0",
    "schedule.iterations=2",
)


def test_figures_1_and_4_and_their_repetition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    size = replace(select_size("tiny", FEW), num_images=(8, 3))
    options = ReproductionOptions(["figure1", "figure4"], size, [3], tmp_path / "out")
    assert reproduce(options, QUIET, plan=True) == [] and not (tmp_path / "out").exists()
    files = reproduce(options, QUIET)
    run = Run.open(tmp_path / "out" / "runs" / "baseline-seed-3-matching")
    assert run.summary["num_images"] == 3
    page = (tmp_path / "out" / "reports" / "report.html").read_text()
    assert "Figure 1" in page and "Figure 4" in page and "Missing" not in page
    assert "mpdiag reproduce figure1 figure4 model.hidden_dim=32" in page
    before = {file: file.read_bytes() for file in files}
    calls = (tmp_path / "out" / "reproduce.json").read_bytes()
    weights = tmp_path / "out" / "trainings" / "baseline-seed-3" / "model_final.pth"
    trained = weights.stat().st_mtime_ns
    assert {file: file.read_bytes() for file in reproduce(options, QUIET)} == before
    assert weights.stat().st_mtime_ns == trained
    assert (tmp_path / "out" / "reproduce.json").read_bytes() == calls
    assert len(json.loads(calls)["calls"]) == 1
