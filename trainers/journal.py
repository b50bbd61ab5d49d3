"""What a training run says: progress bar, metrics.json, TensorBoard, Weights & Biases if asked."""

import hashlib
import importlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from mpdiag.config import TrainConfig
from mpdiag.errors import DependencyError
from mpdiag.store.files import replace_file

Scores = Mapping[str, float | None]


class Journal:
    """Keeps nothing: that of a process which is not the first."""

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def waited(self, seconds: float) -> None:
        """A batch was waited for."""

    def step(self, done: int) -> None:
        """A step was taken."""

    def log(self, iteration: int, losses: Mapping[str, float], **values: float) -> None:
        """Losses of a step, and its learning rate and gradient norm."""

    def diagnosed(self, iteration: int, values: Mapping[str, float]) -> None:
        """mIoU-L and Util."""

    def evaluating(self, done: int, total: int) -> None:
        """An evaluation has come so far, in images."""

    def evaluated(self, iteration: int, scores: Scores) -> None:
        """Scores of an evaluation."""


class FileJournal(Journal):
    """Keeps the log of a run in its output directory and shows it as it grows.

    `metrics.json` gets a JSON line for each logged step, each diagnosis and each evaluation, as
    detectron2 writes.
    A resumed run drops the lines of what it does again.

    Args:
        output: the run's directory.
        config: its settings.
        start: steps that it has taken.
        evaluated: steps that had been taken at its last evaluation.
        console: where the progress bar goes.

    Raises:
        DependencyError: Weights & Biases is asked for and not installed.
    """

    def __init__(
        self, output: Path, config: TrainConfig, start: int, evaluated: int, console: Console
    ) -> None:
        self._wandb = _wandb_run(output, config) if config.wandb else None
        self._lines = output / "metrics.json"
        self._forget(start, evaluated)
        self._board = SummaryWriter(str(output), purge_step=start)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TextColumn("eta"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self._total = config.schedule.iterations
        self._task = self._progress.add_task(
            output.name, total=self._total, completed=start, said=""
        )
        self._evaluation = self._progress.add_task("evaluating", visible=False, said="")
        self._since = time.perf_counter()
        self._logged = start
        self._waited = 0.0

    def __enter__(self) -> "FileJournal":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)

    def waited(self, seconds: float) -> None:
        self._waited += seconds

    def step(self, done: int) -> None:
        self._progress.update(self._task, completed=done)

    def log(self, iteration: int, losses: Mapping[str, float], **values: float) -> None:
        total = sum(losses.values())
        now = time.perf_counter()
        steps = max(iteration + 1 - self._logged, 1)
        seconds = (now - self._since) / steps
        times = {
            "time": seconds,
            "data_time": self._waited / steps,
            "eta_seconds": (self._total - iteration - 1) * seconds,
        }
        self._since, self._logged, self._waited = now, iteration + 1, 0.0
        self._write(iteration, {"total_loss": total, **losses, **values}, times)
        self._progress.update(self._task, said=f"loss {total:.3f}")

    def diagnosed(self, iteration: int, values: Mapping[str, float]) -> None:
        self._write(iteration, values, {})

    def evaluating(self, done: int, total: int) -> None:
        self._progress.update(self._evaluation, completed=done, total=total, visible=done < total)

    def evaluated(self, iteration: int, scores: Scores) -> None:
        known = {name: value for name, value in scores.items() if value is not None}
        self._write(iteration, known, {})
        said = ", ".join(f"{name} {100 * value:.1f}" for name, value in known.items())
        self._progress.console.print(f"step {iteration + 1}: {said or 'no GT to be judged by'}")
        self._since = time.perf_counter()  # what an evaluation takes is no step's time

    def _write(
        self, iteration: int, values: Mapping[str, float], times: Mapping[str, float]
    ) -> None:
        line = {"iteration": iteration, **values, **times}
        with self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, iteration)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=iteration)

    def _forget(self, start: int, evaluated: int) -> None:
        if not self._lines.exists():
            return
        kept = []
        for line in self._lines.read_text(encoding="utf-8").splitlines():
            try:
                values = json.loads(line)
                of_step = "total_loss" in values or "util/0" in values
                if values["iteration"] < (start if of_step else evaluated):
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                break  # torn by a crash; nothing after it counts
        replace_file(self._lines, "".join(kept).encode())


def _wandb_run(output: Path, config: TrainConfig) -> Any:
    """The run at Weights & Biases; a resumed training goes on with its own."""
    try:
        wandb = importlib.import_module("wandb")
    except ImportError:
        raise DependencyError(
            "wandb=true needs the package wandb: install it with 'pip install wandb', or leave it "
            "out"
        ) from None
    return wandb.init(
        project="mpdiag",
        name=output.name,
        id=hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:16],
        dir=str(output),
        resume="allow",
        config=config.model_dump(mode="json"),
    )
