"""`mpdiag reproduce`: train what is missing, analyse it, and report."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from mpdiag.data import generate_synthetic, load_dataset
from mpdiag.errors import ConfigError, DataError, TrainingError
from mpdiag.progress import progress_bar
from mpdiag.reproduce.cost_estimate import CostEstimate, estimate_cost
from mpdiag.reproduce.directory import Job, ReproductionDirectory
from mpdiag.reproduce.experiments import (
    SIZES,
    TRAININGS,
    SeededTraining,
    Size,
    expand_targets,
    required_trainings,
    seeded,
    with_changes,
)
from mpdiag.reproduce.explanations import EXPLANATIONS_FILE, read_explanations
from mpdiag.reproduce.reporting import costs, noise, write_reports
from mpdiag.reproduce.scheduler import Machine, Running, plan_machine, run_job_chains
from reports.reproduction import TABLES, ReproductionContext, logged_steps


@dataclass(frozen=True, slots=True)
class ReproductionOptions:
    """What is to be reproduced.

    Attributes:
        targets: tables and figures.
        size: how large; `find_size` finds it by name.
        seeds: of each training.
        output: the directory of everything.
        root: where the data sets of the paper are, if not where the recipes look.
        jobs: trainings side by side, if not as many as fit.
    """

    targets: Sequence[str]
    size: Size
    seeds: Sequence[int]
    output: Path
    root: Path | None = None
    jobs: int | None = None

    @property
    def layout(self) -> ReproductionDirectory:
        """Where everything lies."""
        return ReproductionDirectory(self.output)

    def trainings(self) -> list[SeededTraining]:
        """All trainings; all of a seed before those of the next.

        Raises:
            ConfigError: no such table, or a setting that does not fit.
        """
        root = self.layout.data.absolute() if self.size.images else self.root
        return [
            seeded(training, seed, self.size, root)
            for seed in self.seeds
            for training in required_trainings(self.targets, self.size)
        ]

    def any_training(self) -> SeededTraining:
        """One whose data set is that of all; also where no training is asked for."""
        root = self.layout.data.absolute() if self.size.images else self.root
        return seeded(TRAININGS["baseline"], self.seeds[0], self.size, root)

    def command(self) -> str:
        """The command that asks for this."""
        changes = self.size.changes[len(SIZES[self.size.name].changes) :]
        words = ["mpdiag", "reproduce", *expand_targets(self.targets), *changes]
        words += ["--size", self.size.name]
        words += ["--seeds", ",".join(map(str, self.seeds)), "--output", str(self.output)]
        return shlex.join(words)


def find_size(name: str, changes: Sequence[str] = ()) -> Size:
    """A size by name, with KEY=VALUE changes.

    Raises:
        ConfigError: there is none.
    """
    if name not in SIZES:
        raise ConfigError(f"--size {name}: choose from {', '.join(SIZES)}")
    return with_changes(SIZES[name], changes)


def parse_seeds(text: str) -> list[int]:
    """Seeds from `0,1,2`; ConfigError for anything else."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(words)) != len(words):
        raise ConfigError(f"--seeds {text}: give different whole numbers, as 0,1,2")
    return [int(word) for word in words]


def reproduce(request: ReproductionOptions, console: Console, *, plan: bool = False) -> list[Path]:
    """Do what is missing of `request`, and write its reports.

    Args:
        console: where it says what it does.
        plan: say what there is to do, how long it takes and how much disk, and stop.

    Returns:
        The reports' files.

    Raises:
        MpdiagError: the request, its directory or its data is wrong, before anything is done.
        TrainingError: steps failed; the others are done, and the reports name what is missing.
        StoppedBySignalError: SIGTERM or Ctrl-C; the same command goes on.
    """
    trainings, layout = request.trainings(), request.layout
    explanations = read_explanations(layout.root / EXPLANATIONS_FILE, tuple(TABLES))
    machine = plan_machine(request.size, request.jobs)
    found = estimate_cost(trainings, layout, request.size, _val_images(request, trainings))
    if not plan:
        call = {
            "command": request.command(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": str(machine),
        }
        idle = not found.trainings and not found.analyses
        layout.register(request.size.name, trainings, None if idle else call)
    console.print(_in_words(found, len(trainings), machine), soft_wrap=True)
    if plan:
        return []
    if request.size.images is not None:
        train, val = request.size.images
        with progress_bar(console, "generating") as progress:
            generate_synthetic(layout.data / "synthetic", train=train, val=val, progress=progress)
    with ProgressDisplay(layout, trainings, console) as board:
        chains = [layout.steps(trained) for trained in trainings]
        failures = run_job_chains(chains, layout, machine, board.watch)
    targets = expand_targets(request.targets)
    made = ReproductionContext(
        targets=targets,
        size=request.size.name,
        about=request.size.about,
        command=request.command(),
        machines=layout.machines(),
        seeds=request.seeds,
        costs=costs(trainings, layout) if "table7" in targets else {},
        noise=noise(request.any_training(), layout) if "figure4" in targets else None,
        explanations=explanations,
    )
    files = write_reports(made, trainings, layout)
    if failures:
        first = failures[0]
        raise TrainingError(
            f"{len(failures)} steps failed; the first is {first.step.name}: {first.said} (all that "
            f"it said is in {layout.log(first.step)}); mend it and give the same command again"
        )
    return files


def _val_images(request: ReproductionOptions, trainings: Sequence[SeededTraining]) -> int:
    """Images of an analysis; 0 where the data set is not there yet."""
    if request.size.images is not None:
        return request.size.images[1]
    if not trainings:
        return 0
    data = trainings[0].config.data
    try:
        return len(load_dataset(data.dataset, root=data.root, split=data.val_split, task=data.task))
    except DataError:
        return 0


def _in_words(found: CostEstimate, trainings: int, machine: Machine) -> str:
    if not found.trainings and not found.analyses:
        return f"Nothing of {trainings} trainings and their analyses is to be done."
    left = (
        f"{found.trainings} of {trainings} trainings and {found.analyses} analyses are to be done"
    )
    disk = f"about {_size(found.disk)} of disk"
    where = escape(str(machine))
    if found.seconds is None:
        return f"{left} on {where}: {disk}; how long can't be told without the data set."
    took = _duration(found.seconds / len(machine.slots))
    return f"{left} on {where}: about {took} (estimated from {found.measured_on}), {disk}."


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _size(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


@dataclass(slots=True)
class ProgressDisplay:
    """Shows what runs, and says what is done."""

    layout: ReproductionDirectory
    trainings: Sequence[SeededTraining]
    console: Console
    since: float = field(default_factory=time.monotonic)
    _progress: Progress = field(init=False)
    _bars: dict[str, TaskID] = field(default_factory=dict)
    _totals: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, console=self.console)
        self._totals = {one.key: one.config.schedule.iterations for one in self.trainings}

    def __enter__(self) -> "ProgressDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def watch(self, running: Sequence[Running], ended: Job | None) -> None:
        """See `scheduler.Watch`."""
        for one in running:
            name = one.step.name
            if name not in self._bars:
                self._bars[name] = self._progress.add_task(name, total=self._totals.get(name))
            if one.step.trains:
                done = logged_steps(one.step.output)
                self._progress.update(self._bars[name], completed=done)
        if ended is not None:
            self._progress.remove_task(self._bars.pop(ended.name))
            minutes, seconds = divmod(int(time.monotonic() - self.since), 60)
            what = "trained" if ended.trains else "analysed"
            said = what if ended.finished else "[red]failed[/]"
            self._progress.console.print(
                f"[dim]{minutes}:{seconds:02d}[/] {escape(ended.name)} {said}", soft_wrap=True
            )
