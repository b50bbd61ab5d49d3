"""Logging of a training: progress bar, metrics.json, TensorBoard, Weights & Biases."""

import hashlib
import io
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from mpdiag.config import TrainConfig
from mpdiag.extras import import_optional
from mpdiag.store.files import append, replace_file
from mpdiag.untrusted import open_regular, parse_json

Scores = Mapping[str, float | None]


class Logger:
    """Logs nothing. All processes but the main one use it."""

    def __enter__(self) -> "Logger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def add_data_time(self, seconds: float) -> None:
        """Count time spent waiting for a batch."""

    def update_progress(self, iteration: int) -> None:
        """Show the number of steps taken."""

    def log_step(self, iteration: int, losses: Mapping[str, float], **values: float) -> None:
        """Log the losses of a step, its learning rate and its gradient norm."""

    def log_layer_metrics(self, iteration: int, values: Mapping[str, float]) -> None:
        """Log mIoU-L and Util."""

    def update_evaluation(self, done: int, total: int) -> None:
        """Show the number of images evaluated."""

    def log_evaluation(self, iteration: int, scores: Scores) -> None:
        """Log the scores of an evaluation."""


class FileLogger(Logger):
    """Writes the log of a run to its output directory and shows its progress.

    `metrics.json` gets one JSON line per logged step, layer metrics and evaluation, as in
    detectron2. A resumed run first removes the lines of the steps that it repeats.

    Args:
        output: the run's directory.
        config: the configuration of the run.
        start: number of steps taken.
        last_evaluation: iteration of the last evaluation.
        console: console of the progress bar.

    Raises:
        DependencyError: Weights & Biases is requested and not installed.
    """

    def __init__(
        self,
        output: Path,
        config: TrainConfig,
        start: int,
        last_evaluation: int,
        console: Console,
    ) -> None:
        self._wandb = _wandb_run(output, config) if config.wandb else None
        self._lines = output / "metrics.json"
        self._remove_repeated_lines(start, last_evaluation)
        name = f"events.out.tfevents.{time.time_ns():019}.{socket.gethostname()}.{os.getpid()}"
        self._events = output / name
        self._append_event(step=start, file_version="brain.Event:2")
        # TensorBoard drops the values of earlier files from this step on.
        self._append_event(step=start, session_log=SessionLog(status=SessionLog.START))
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TextColumn("eta"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self._total = config.schedule.iterations
        self._task = self._progress.add_task(
            output.name, total=self._total, completed=start, status=""
        )
        self._evaluation = self._progress.add_task("evaluating", visible=False, status="")
        self._last_time = time.perf_counter()
        self._last_step = start
        self._data_time = 0.0

    def __enter__(self) -> "FileLogger":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)

    def add_data_time(self, seconds: float) -> None:
        self._data_time += seconds

    def update_progress(self, iteration: int) -> None:
        self._progress.update(self._task, completed=iteration)

    def log_step(self, iteration: int, losses: Mapping[str, float], **values: float) -> None:
        total = sum(losses.values())
        now = time.perf_counter()
        steps = max(iteration + 1 - self._last_step, 1)
        seconds = (now - self._last_time) / steps
        times = {
            "time": seconds,
            "data_time": self._data_time / steps,
            "eta_seconds": (self._total - iteration - 1) * seconds,
        }
        self._last_time, self._last_step, self._data_time = now, iteration + 1, 0.0
        self._write(iteration, {"total_loss": total, **losses, **values}, times)
        self._progress.update(self._task, status=f"loss {total:.3f}")

    def log_layer_metrics(self, iteration: int, values: Mapping[str, float]) -> None:
        self._write(iteration, values, {})

    def update_evaluation(self, done: int, total: int) -> None:
        self._progress.update(self._evaluation, completed=done, total=total, visible=done < total)

    def log_evaluation(self, iteration: int, scores: Scores) -> None:
        known = {name: value for name, value in scores.items() if value is not None}
        self._write(iteration, known, {})
        text = ", ".join(f"{name} {100 * value:.1f}" for name, value in known.items())
        self._progress.console.print(f"step {iteration + 1}: {text or 'no GT to evaluate on'}")
        self._last_time = time.perf_counter()  # the time of a step excludes evaluation

    def _write(
        self, iteration: int, values: Mapping[str, float], times: Mapping[str, float]
    ) -> None:
        line = {"iteration": iteration, **values, **times}
        append(self._lines, (json.dumps(line) + "\n").encode())
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._append_event(step=iteration, summary=Summary(value=scalars))
        if self._wandb is not None:
            self._wandb.log(dict(values), step=iteration)

    def _append_event(self, **content: Any) -> None:
        """Append to the TensorBoard file now; a SummaryWriter reports a full disk late or never."""
        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **content).SerializeToString())
        append(self._events, record.getvalue())

    def _remove_repeated_lines(self, start: int, last_evaluation: int) -> None:
        if not self._lines.exists():
            return
        kept = []
        with open_regular(self._lines) as file:
            text = file.read().decode(errors="replace")
        for line in text.splitlines():
            try:
                values = parse_json(line)
                of_step = any(key.startswith(("total_loss", "miou_l/", "util/")) for key in values)
                if values["iteration"] < (start if of_step else last_evaluation):
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                break  # an incomplete line, written during a crash
        replace_file(self._lines, "".join(kept).encode())


def _wandb_run(output: Path, config: TrainConfig) -> Any:
    """Return the run at Weights & Biases; a resumed training continues its own."""
    wandb = import_optional("wandb", "the setting wandb=true")
    return wandb.init(
        project="mpdiag",
        name=output.name,
        id=hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:16],
        dir=str(output),
        resume="allow",
        config=config.model_dump(mode="json"),
    )
