"""What a training run says: progress bar, metrics.json, TensorBoard."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter


class Journal:
    """Keeps the log of a run in its output directory and shows it as it grows.

    `metrics.json` gets a JSON line for each logged step, as detectron2 writes. A resumed run
    drops the lines of the steps that it does again.
    """

    def __init__(self, output: Path, total: int, start: int, console: Console) -> None:
        self._lines = output / "metrics.json"
        self._forget(start)
        self._board = SummaryWriter(str(output), purge_step=start)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TextColumn("eta"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self._task = self._progress.add_task(output.name, total=total, completed=start, losses="")
        self._since = time.perf_counter()
        self._logged = start

    def __enter__(self) -> "Journal":
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

    def step(self, done: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done)

    def log(self, iteration: int, values: Mapping[str, float], data_time: float) -> None:
        """Write one logged step: losses, learning rate, gradient norm, seconds an iteration."""
        now = time.perf_counter()
        steps = max(iteration + 1 - self._logged, 1)
        seconds = (now - self._since) / steps
        self._since, self._logged = now, iteration + 1
        left = (self._progress.tasks[0].total or 0) - iteration - 1
        line = {
            "iteration": iteration,
            **values,
            "time": seconds,
            "data_time": data_time / steps,
            "eta_seconds": left * seconds,
        }
        with self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, iteration)
        self._progress.update(self._task, losses=f"loss {values['total_loss']:.3f}")

    def _forget(self, start: int) -> None:
        if not self._lines.exists():
            return
        kept = []
        for line in self._lines.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["iteration"] < start:
                    kept.append(line + "\n")
            except ValueError:
                break  # torn by a crash; nothing after it counts
        self._lines.write_text("".join(kept), encoding="utf-8")
