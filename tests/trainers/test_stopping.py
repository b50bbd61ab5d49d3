"""A stopped and resumed run equals an uninterrupted one."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from mpdiag.config import TrainConfig
from mpdiag.errors import RunError
from trainers.loop import train
from trainers.signals import StopSignal

from ..processes import Forked, run_command

QUIET = Console(quiet=True)
# Everything random: order, augmentation, noise of masks and labels, points; and an evaluation.
SETTINGS = (
    "schedule.iterations=8",
    "checkpoint_every=3",
    "evaluate_every=4",
    "layer_metrics_every=3",
    "gradient_accumulation_steps=2",
    "method=piloted",
    "loss.num_points=32",
    "data.augment.crop=[64, 64]",
    "data.augment.scale_jitter=[0.5, 2.0]",
    "data.augment.color=true",
)
KILLS = int(os.environ.get("MPDIAG_KILLS", "2"))
TIMES = ("time", "data_time", "eta_seconds")


def lines_of(output: Path) -> list[dict[str, float]]:
    """Return the lines of metrics.json without times."""
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def start(config: TrainConfig, folder: Path, *options: str) -> Forked:
    folder.mkdir(exist_ok=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return Forked(folder, run_command, "train", recipe, "--output", folder / "stopped", *options)


def stop_after(process: Forked, steps: int, output: Path, number: int) -> int | None:
    """Signal all processes of a run after `steps` logged steps, and return the exit code."""
    file = output / "metrics.json"
    while process.wait(0.005) is None:
        if file.is_file() and file.read_text().count("total_loss") >= steps:
            process.signal(number)
            break
    return process.wait()


@pytest.fixture(scope="module")
def whole(data_root: Path, tmp_path_factory: pytest.TempPathFactory, build_recipe: Any) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    train(build_recipe(*SETTINGS), output, console=QUIET)
    return output


def assert_equal_runs(found: Path, expected: Path) -> None:
    assert lines_of(found) == lines_of(expected)
    for name in ("model_final.pth", "model_best.pth", "last.pth"):
        first, second = (torch.load(x / name, weights_only=True) for x in (found, expected))
        assert first["iteration"] == second["iteration"]
        assert all(torch.equal(first["model"][k], second["model"][k]) for k in first["model"])
    assert first["best"] == second["best"]
    states = (first["optimizer"]["state"], second["optimizer"]["state"])
    assert all(torch.equal(states[0][i]["exp_avg"], states[1][i]["exp_avg"]) for i in states[0])


@pytest.mark.slow
def test_killed_runs_resume_bit_for_bit(whole: Path, small_recipe, tmp_path: Path) -> None:
    """Kill the processes of a run at random moments until one finishes; then start the next."""
    config, generator, kills, runs = small_recipe(*SETTINGS), random.Random(0), 0, 0
    Forked(tmp_path / "server", print).wait()  # the first process also waits for the imports
    started = time.perf_counter()
    assert start(config, tmp_path).wait() == 0
    duration = time.perf_counter() - started
    assert_equal_runs(tmp_path / "stopped", whole)
    while kills < KILLS:
        runs += 1
        folder = tmp_path / str(runs)
        while not (folder / "stopped" / "model_final.pth").exists():
            process = start(config, folder, "--resume")
            if process.wait(generator.uniform(0, 1.2 * duration)) is None:
                process.signal(signal.SIGKILL)
            code = process.wait()
            assert code in (0, -signal.SIGKILL), process.err
            kills += code == -signal.SIGKILL
            assert kills < 10 * KILLS + 100, "no process finishes"
        assert_equal_runs(folder / "stopped", whole)
    print(f"{kills} kills, {runs} runs")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_the_current_step(
    whole: Path, small_recipe, tmp_path: Path, number: int
) -> None:
    config, output = small_recipe(*SETTINGS, "data.num_workers=1"), tmp_path / "stopped"
    process = start(config, tmp_path)
    assert stop_after(process, 3, output, number) == 128 + number
    assert "continue with --resume" in process.err and "Traceback" not in process.err
    kept = torch.load(output / "last.pth", weights_only=True)["iteration"]
    logged = sum("total_loss" in line for line in lines_of(output))
    assert kept == logged >= 3
    if number == signal.SIGTERM:  # the resumed run is the same after any signal
        train(config, output, resume=True, console=QUIET)
        assert_equal_runs(output, whole)


def test_only_a_repeated_ctrl_c_ends_the_process_at_once() -> None:
    """torchrun forwards a SIGTERM that the training may have got already."""
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        for number in (signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
            assert stop.number == signal.SIGTERM
            assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == before


def test_a_closed_terminal_stops_a_run_unless_nohup_ignores_it() -> None:
    def ignore(*_: object) -> None:
        """Ignore a SIGHUP, which would end the tests."""

    original = signal.getsignal(signal.SIGHUP)
    try:
        for handler, number in ((ignore, signal.SIGHUP), (signal.SIG_IGN, None)):
            signal.signal(signal.SIGHUP, handler)
            with StopSignal() as stop:
                signal.raise_signal(signal.SIGHUP)
            assert stop.number == number and signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, original)


@pytest.mark.slow
def test_run_stopped_in_an_evaluation_repeats_it(
    whole: Path, small_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, output = small_recipe(*SETTINGS), tmp_path / "run"

    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trainers.loop.validate", fail)
        patch.setattr("trainers.loop.TrainingLoop._stop", fail)
        with pytest.raises(KeyboardInterrupt):
            train(config, output, console=QUIET)
    with pytest.raises(RunError, match="--resume"):
        train(config, output, console=QUIET)
    train(config, output, resume=True, console=QUIET)
    assert_equal_runs(output, whole)


def test_settings_without_effect_on_results_may_change(small_recipe, tmp_path: Path) -> None:
    output = tmp_path / "run"
    config = small_recipe("schedule.iterations=2")
    train(config, output, console=QUIET)
    (output / "model_final.pth").unlink()
    changed = small_recipe("schedule.iterations=2", "data.num_workers=1", "log_every=2")
    train(changed, output, resume=True, console=QUIET)
    with pytest.raises(RunError, match=r"other settings \(seed\)"):
        train(small_recipe("schedule.iterations=2", "seed=1"), output, resume=True, console=QUIET)
