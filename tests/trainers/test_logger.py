"""metrics.json, TensorBoard events, and Weights & Biases."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mpdiag.config import TrainConfig
from mpdiag.errors import DependencyError
from trainers.logger import FileLogger

QUIET = Console(quiet=True)


def lines_of(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def test_lines_and_events_agree(tmp_path: Path) -> None:
    with FileLogger(tmp_path, TrainConfig(), 0, 0, QUIET) as logger:
        logger.add_data_time(0.5)
        logger.log_step(4, {"loss_ce": 2.0, "loss_mask": 1.5}, lr=0.1, grad_norm=3.0)
        logger.update_evaluation(1, 2)
        logger.log_evaluation(4, {"ap": 0.25, "ap_large": None})
    first, second = lines_of(tmp_path)
    assert first["total_loss"] == 3.5 and first["data_time"] == pytest.approx(0.1)
    assert second == {"iteration": 4, "ap": 0.25}
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"total_loss", "loss_ce", "lr", "grad_norm", "ap"} <= set(events.Tags()["scalars"])
    assert [(e.step, e.value) for e in events.Scalars("ap")] == [(4, 0.25)]


def test_resumed_run_removes_the_lines_of_repeated_steps(tmp_path: Path) -> None:
    with FileLogger(tmp_path, TrainConfig(), 0, 0, QUIET) as logger:
        for step in range(6):
            logger.log_step(step, {"loss_ce": 1.0})
            if step in (1, 3):
                logger.log_evaluation(step, {"ap": step / 10})
            if step in (2, 4):  # images without GT have no Util
                logger.log_layer_metrics(step, {"miou_l/1": 0.5})
    with (tmp_path / "metrics.json").open("a") as file:
        file.write('{"iteration": 6, "total_l')  # incomplete
    with FileLogger(tmp_path, TrainConfig(), 4, 2, QUIET) as logger:
        logger.log_evaluation(3, {"ap": 0.3})
    lines = lines_of(tmp_path)
    assert [line["iteration"] for line in lines if "miou_l/1" in line] == [2]
    kept = [(int(line["iteration"]), line.get("ap")) for line in lines if "miou_l/1" not in line]
    assert kept == [(0, None), (1, None), (1, 0.1), (2, None), (3, None), (3, 0.3)]


def test_wandb_gets_the_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    run = SimpleNamespace(
        log=lambda values, step: calls.append((step, values)),
        finish=lambda exit_code: calls.append(exit_code),
    )
    monkeypatch.setitem(
        sys.modules, "wandb", SimpleNamespace(init=lambda **given: calls.append(given) or run)
    )
    with FileLogger(tmp_path, TrainConfig(wandb=True), 0, 0, QUIET) as logger:
        logger.log_evaluation(9, {"pq": 0.5})
    start, line, end = calls
    assert (start["project"], start["resume"], start["name"]) == ("mpdiag", "allow", tmp_path.name)
    assert (line, end) == ((9, {"pq": 0.5}), 0)


def test_missing_wandb_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(DependencyError, match="pip install wandb"):
        FileLogger(tmp_path, TrainConfig(wandb=True), 0, 0, QUIET)
