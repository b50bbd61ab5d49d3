"""A reproduction of a few steps from training to report, and its repetition."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from mpdiag.cli import app
from mpdiag.data import generate_synthetic, load_dataset
from mpdiag.errors import ConfigError, DataError, RunError, TrainingError
from mpdiag.reproduce import ReproductionOptions, reproduce, scheduler, select_size
from mpdiag.reproduce import run as run_module
from mpdiag.reproduce.cost_estimate import CostEstimate
from mpdiag.reproduce.directory import Job, ReproductionDirectory
from mpdiag.reproduce.experiments import TiledDataset
from mpdiag.reproduce.run import create_dataset
from mpdiag.reproduce.scheduler import Failure, Machine, Running
from mpdiag.store import Run

from ...processes import Forked, context, run_command

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


def start(
    chain: Sequence[Job], slot: int, directory: ReproductionDirectory, machine: Machine
) -> Running:
    """Start a job in a process that need not import torch."""
    job, *following = chain
    folder = directory.log(job).with_suffix("")
    process: Any = Forked(folder, run_command, *job.arguments, environment=machine.slots[slot])
    return Running(job, tuple(following), slot, process)


@pytest.mark.slow
def test_figures_1_and_4_and_their_repetition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    monkeypatch.setattr(scheduler, "_start", start)  # test_scheduler.py tests the original
    monkeypatch.setattr(scheduler, "get_context", lambda method: context)
    size = replace(select_size("tiny", FEW), num_images=(8, 3))
    options = ReproductionOptions(["figure1", "figure4"], size, [3], tmp_path / "out")
    assert reproduce(options, QUIET, plan=True) == [] and not (tmp_path / "out").exists()
    files = reproduce(options, QUIET)
    run = Run.open(tmp_path / "out" / "runs" / "baseline-seed-3-matching")
    assert run.summary["num_images"] == 3
    resampled = tmp_path / "out" / "measured" / "resampled" / "baseline-seed-3-matching.json"
    values = json.loads(resampled.read_text())["values"]
    assert {len(column) for column in values.values()} == {1000}
    assert {"ap", "util", "util/1", "miou_l", "miou_l/1"} == values.keys()
    of_layers = [layer["miou_l"] for layer in run.summary["layers"]]
    assert min(values["miou_l"]) <= sum(of_layers) / len(of_layers) <= max(values["miou_l"])
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


def test_photos_cut_tiles_and_train_a_shared_warm_start_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[list[Job]] = []

    def record(chains: Sequence[Sequence[Job]], *_: object) -> list[Failure]:
        groups.append([job for chain in chains for job in chain])
        return []

    monkeypatch.setattr(run_module, "run_job_chains", record)
    monkeypatch.setattr(run_module, "estimate_cost", lambda *_: CostEstimate(0, 0, 0.0, "", 0))
    size = select_size("photos", ["data.dataset=facade-32"])
    size = replace(size, tiles=TiledDataset("facade", 32))
    missing = ReproductionOptions(["table4"], size, [1], tmp_path / "none", tmp_path)
    with pytest.raises(DataError, match="facade: not found; run mpdiag data prepare facade --from"):
        reproduce(missing, QUIET)
    generate_synthetic(tmp_path / "datasets" / "facade", train=3, val=1, size=64)
    out = tmp_path / "out"
    options = ReproductionOptions(
        ["table4"], size, [1, 2], out, tmp_path / "datasets", only=["mp-all-layers", "baseline"]
    )
    assert options.command() == (
        "mpdiag reproduce table4 data.dataset=facade-32 --size photos "
        f"--root {tmp_path / 'datasets'} --only mp-all-layers,baseline --seeds 1,2 --output {out}"
    )
    reproduce(options, QUIET)
    tiles = load_dataset("facade-32", root=out / "data", split="val")
    assert len(tiles) > 1 and tiles[0].image.shape[1:] == (32, 32)

    (warm,), others = groups
    assert warm.name == "warm-start-seed-0" and "method=per-pixel" in warm.arguments
    assert not any(argument.startswith("init=") for argument in warm.arguments)
    trainings = [job for job in others if job.is_training]
    assert [job.name for job in trainings] == [
        "mp-all-layers-seed-1", "baseline-seed-1", "mp-all-layers-seed-2", "baseline-seed-2",
    ]  # fmt: skip
    assert all(f"init={warm.output}" in job.arguments for job in trainings)
    assert all(f"data.root={out / 'data'}" in job.arguments for job in [warm, *trainings])
    assert {job.name for job in others if not job.is_training} == {
        f"{name}-seed-{seed}"
        for name in ("mp-all-layers", "baseline")
        for seed in ("1-matching", "2-matching", *("1-piloted", "2-piloted") * (name[0] == "m"))
    }

    manifest = (out / "reproduce.json").read_bytes()
    assert set(json.loads(manifest)["trainings"]) == {warm.name, *(job.name for job in trainings)}
    reproduce(replace(options, only=()), QUIET, report_only=True)
    assert len(groups) == 2 and (out / "reproduce.json").read_bytes() == manifest
    page = (out / "reports" / "report.md").read_text()
    assert "mp-all-layers-seed-2 is not trained" in page and "mp-no-noise" not in page
    with pytest.raises(ConfigError, match=r"--only typo: no training of these targets; choose"):
        reproduce(replace(options, only=["typo"]), QUIET)


def test_tiles_are_kept_without_the_images_that_they_were_cut_from(tmp_path: Path) -> None:
    generate_synthetic(tmp_path / "datasets" / "facade", train=1, val=1, size=64)
    size = replace(select_size("photos"), tiles=TiledDataset("facade", 32))
    folder = tmp_path / "data"
    create_dataset(size, folder, tmp_path / "datasets", QUIET)
    before = (folder / "facade-32" / "tiles.json").read_bytes()
    create_dataset(size, folder, tmp_path / "none", QUIET)
    assert (folder / "facade-32" / "tiles.json").read_bytes() == before
    (folder / "facade-32").rename(folder / "facade-16")
    for tiles in (TiledDataset("facade", 16), TiledDataset("facade", 32)):
        with pytest.raises(DataError, match="facade: not found; run mpdiag data prepare"):
            create_dataset(replace(size, tiles=tiles), folder, tmp_path / "none", QUIET)


def test_report_only_needs_the_size_and_the_settings_of_the_directory(tmp_path: Path) -> None:
    options = ReproductionOptions(["table4"], select_size("tiny"), [1], tmp_path / "out")
    with pytest.raises(RunError, match="out: has no reproduction; give its directory"):
        reproduce(options, QUIET, report_only=True)
    assert not (tmp_path / "out").exists()
    options.directory.register("tiny", options.trainings(), None)
    other = replace(options, size=select_size("tiny", ["schedule.iterations=77"]))
    with pytest.raises(RunError, match=r"other settings \(schedule\.iterations\)"):
        reproduce(other, QUIET, report_only=True)
    with pytest.raises(RunError, match="has a reproduction at size tiny"):
        reproduce(replace(options, size=select_size("small")), QUIET, report_only=True)
    with pytest.raises(RunError, match="has none of these trainings, such as baseline-seed-2"):
        reproduce(replace(options, seeds=[2]), QUIET, report_only=True)
    assert not (tmp_path / "out" / "reports").exists()
    reproduce(replace(options, seeds=[1, 2]), QUIET, report_only=True)
    page = (tmp_path / "out" / "reports" / "report.md").read_text()
    assert "--seeds 1 --output" in page and "| Seeds |" not in page  # none is trained


def test_report_only_has_the_seeds_of_the_directory_by_default(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ReproductionOptions(["table4"], select_size("photos"), [1, 4], out, only=["baseline"])
    warm = options.warm_start()
    assert warm is not None and warm.seed == 0
    options.directory.register("photos", [warm, *options.trainings()], None)
    words = ["reproduce", "table4", "--size", "photos", "--report-only", "--output", str(out)]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0 and f"{out / 'reports' / 'report.md'}" in found.output
    page = (out / "reports" / "report.md").read_text()
    assert "--seeds 1,4 --output" in page
    assert all(f"baseline-seed-{seed} is not trained" in page for seed in (1, 4))
    assert CliRunner().invoke(app, [*words, "--seeds", "4"]).exit_code == 0
    assert "--seeds 4 --output" in (out / "reports" / "report.md").read_text()


def test_figure_4_needs_no_warm_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chains: list[Sequence[Job]] = []
    monkeypatch.setattr(run_module, "run_job_chains", lambda found, *_: chains.extend(found) or [])
    monkeypatch.setattr(run_module, "measure_noise", lambda *_: None)
    size = replace(select_size("photos", ["data.dataset=synthetic"]), tiles=None, num_images=(1, 1))
    options = ReproductionOptions(["figure4"], size, [1], tmp_path / "out")
    console = Console(file=io.StringIO(), width=200)
    reproduce(options, console)
    assert chains == [] and "No training is needed." in console.file.getvalue()
    assert json.loads((tmp_path / "out" / "reproduce.json").read_text())["trainings"] == {}
    assert reproduce(options, QUIET, report_only=True)


def test_the_command_of_a_report_without_images_has_none(tmp_path: Path) -> None:
    options = ReproductionOptions(["table1"], select_size("tiny"), [0, 1], tmp_path)
    command = f"mpdiag reproduce table1 --size tiny --seeds 0,1 --output {tmp_path}"
    assert options.command() == command
    assert replace(options, show_images=False).command() == f"{command} --no-images"


def test_trainings_without_held_out_images_do_not_start(tmp_path: Path) -> None:
    size = select_size("tiny", ["data.dataset=train.json"])
    size = replace(size, num_images=(1, 1))
    options = ReproductionOptions(["table4"], size, [1], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"train\.json: has no held-out images"):
        reproduce(options, QUIET)
    assert not (tmp_path / "out" / "trainings").exists()


def test_a_failed_warm_start_starts_no_other_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def fail(chains: Sequence[Sequence[Job]], *_: object) -> list[Failure]:
        calls.append(chains[0][0].name)
        return [Failure(chains[0][0], "no weights")]

    monkeypatch.setattr(run_module, "run_job_chains", fail)
    monkeypatch.setattr(run_module, "estimate_cost", lambda *_: CostEstimate(0, 0, 0.0, "", 0))
    size = replace(select_size("photos", ["data.dataset=synthetic"]), tiles=None, num_images=(2, 1))
    options = ReproductionOptions(["table4"], size, [1], tmp_path / "out")
    with pytest.raises(TrainingError, match="1 job failed; first warm-start-seed-0: no weights"):
        reproduce(options, QUIET)
    assert calls == ["warm-start-seed-0"]
