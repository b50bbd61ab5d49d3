"""What `mpdiag reproduce` prints: the cost of the jobs, their progress and their failures."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from mpdiag.reproduce.cost_estimate import CostEstimate
from mpdiag.reproduce.directory import Job, ReproductionDirectory
from mpdiag.reproduce.experiments import SeededTraining
from mpdiag.reproduce.scheduler import Failure, Machine, Running
from reports.reproduction import logged_steps


def describe_cost(cost: CostEstimate, trainings: int, machine: Machine) -> str:
    """Return number, time and disk space of the unfinished jobs of some trainings."""
    if not trainings:
        return "No training is needed."
    if not cost.trainings and not cost.analyses:
        return f"All jobs of {_format_count(trainings, 'training', 'trainings')} are finished."
    jobs = (
        f"{cost.trainings} of {_format_count(trainings, 'training', 'trainings')} and "
        f"{_format_count(cost.analyses, 'analysis', 'analyses')} to run on {escape(str(machine))}"
    )
    disk = f"about {_format_bytes(cost.disk)} of disk space"
    if cost.seconds is None:
        return f"{jobs}: {disk}; the time is not known: {escape(cost.problem)}."
    duration = _format_duration(cost.seconds / len(machine.slots))
    return f"{jobs}: about {duration} (estimated from {cost.basis}), {disk}."


def describe_failures(failures: Sequence[Failure], directory: ReproductionDirectory) -> str:
    """Return the number of failed jobs, the message of the first and the fix."""
    first = failures[0]
    return (
        f"{directory.root}: {_format_count(len(failures), 'job', 'jobs')} failed; first "
        f"{first.job.name}: {first.message}; see {directory.log(first.job)}, fix the cause and "
        "repeat the command"
    )


def _format_count(count: int, singular: str, plural: str) -> str:
    return f"{count} {singular if count == 1 else plural}"


def _format_duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _format_bytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


class ProgressDisplay:
    """Progress bars of the running jobs, and a line for each job that ends."""

    def __init__(self, trainings: Sequence[SeededTraining], console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, console=console)
        self._steps = {one.name: one.config.schedule.iterations for one in trainings}
        self._bars: dict[str, TaskID] = {}
        self._start = time.monotonic()

    def __enter__(self) -> "ProgressDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, running: Sequence[Running], ended: Job | None) -> None:
        """Update the bars (a `scheduler.ProgressCallback`)."""
        for one in running:
            name = one.job.name
            if name not in self._bars:
                self._bars[name] = self._progress.add_task(name, total=self._steps.get(name))
            if one.job.is_training:
                self._progress.update(self._bars[name], completed=logged_steps(one.job.output))
        if ended is not None:
            bar = self._bars.pop(ended.name, None)
            if bar is not None:  # a short job may end before it gets one
                self._progress.remove_task(bar)
            minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
            done = "trained" if ended.is_training else "analysed"
            status = done if ended.finished else "[red]failed[/]"
            self._progress.console.print(
                f"[dim]{minutes}:{seconds:02d}[/] {escape(ended.name)} {status}", soft_wrap=True
            )
