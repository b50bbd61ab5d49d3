"""`mpdiag reproduce`: train what is missing, analyse it, and write the report."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
    ReproductionSize,
    SeededTraining,
    configure_training,
    expand_targets,
    required_trainings,
)
from mpdiag.reproduce.explanations import EXPLANATIONS_FILE, read_explanations
from mpdiag.reproduce.reporting import measure_costs, measure_noise, write_reproduction_report
from mpdiag.reproduce.scheduler import Failure, Machine, Running, plan_machine, run_job_chains
from reports.reproduction import TABLES, ReproductionContext, logged_steps


@dataclass(frozen=True, slots=True)
class ReproductionOptions:
    """Options of `mpdiag reproduce`.

    Attributes:
        targets: tables and figures.
        seeds: of each training.
        output: directory of all files.
        root: folder of the data sets at size paper; None takes that of the recipes.
        jobs: number of concurrent trainings; None runs as many as fit.
    """

    targets: Sequence[str]
    size: ReproductionSize
    seeds: Sequence[int]
    output: Path
    root: Path | None = None
    jobs: int | None = None

    @property
    def directory(self) -> ReproductionDirectory:
        """The paths below `output`."""
        return ReproductionDirectory(self.output)

    def trainings(self) -> list[SeededTraining]:
        """Return all trainings, seed by seed.

        Raises:
            ConfigError: a target or a setting is invalid.
        """
        return [
            configure_training(spec, seed, self.size, self._data_root())
            for seed in self.seeds
            for spec in required_trainings(self.targets, self.size)
        ]

    def baseline(self) -> SeededTraining:
        """Return the baseline with the first seed, also if no target needs it."""
        return configure_training(
            TRAININGS["baseline"], self.seeds[0], self.size, self._data_root()
        )

    def command(self) -> str:
        """Return the command line of these options."""
        overrides = self.size.overrides[len(SIZES[self.size.name].overrides) :]
        words = ["mpdiag", "reproduce", *expand_targets(self.targets), *overrides]
        words += ["--size", self.size.name]
        words += ["--seeds", ",".join(map(str, self.seeds)), "--output", str(self.output)]
        return shlex.join(words)

    def _data_root(self) -> Path | None:
        return self.directory.data.absolute() if self.size.num_images else self.root


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of a text such as `0,1,2`.

    Raises:
        ConfigError: the text is something else.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(words)) != len(words):
        raise ConfigError(f"--seeds {text}: not a list of seeds; give distinct integers like 0,1,2")
    return [int(word) for word in words]


def reproduce(options: ReproductionOptions, console: Console, *, plan: bool = False) -> list[Path]:
    """Run the unfinished jobs and write the report.

    Args:
        plan: print the number of jobs, their time and disk space, and stop.

    Returns:
        The files of the report.

    Raises:
        MpdiagError: the options, the directory or the data are invalid; no job has run.
        TrainingError: jobs failed; the others are finished, and the report lists what is missing.
        StoppedBySignalError: SIGTERM or Ctrl-C; the same command resumes.
    """
    trainings, directory = options.trainings(), options.directory
    explanations = read_explanations(directory.root / EXPLANATIONS_FILE, tuple(TABLES))
    machine = plan_machine(options.size, options.jobs)
    cost = estimate_cost(trainings, directory, options.size, _count_val_images(options, trainings))
    if not plan:
        call = {
            "command": options.command(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": str(machine),
        }
        has_jobs = bool(cost.trainings or cost.analyses)
        directory.register(options.size.name, trainings, call if has_jobs else None)
    console.print(_describe_cost(cost, len(trainings), machine), soft_wrap=True)
    if plan:
        return []
    if options.size.num_images is not None:
        train, val = options.size.num_images
        folder = directory.data / "synthetic"
        with progress_bar(console, "generating") as progress:
            generate_synthetic(folder, train=train, val=val, progress=progress)
    with ProgressDisplay(trainings, console) as display:
        chains = [directory.jobs(training) for training in trainings]
        failures = run_job_chains(chains, directory, machine, display.update)
    targets = expand_targets(options.targets)
    context = ReproductionContext(
        targets=targets,
        size=options.size.name,
        description=options.size.description,
        command=options.command(),
        machines=directory.machines(),
        seeds=options.seeds,
        costs=measure_costs(trainings, directory) if "table7" in targets else {},
        noise=measure_noise(options.baseline(), directory) if "figure4" in targets else None,
        explanations=explanations,
    )
    files = write_reproduction_report(context, trainings, directory)
    if failures:
        raise TrainingError(_describe_failures(failures, directory))
    return files


def _count_val_images(options: ReproductionOptions, trainings: Sequence[SeededTraining]) -> int:
    """Return the number of images of an analysis; 0 if the data set is missing."""
    if options.size.num_images is not None:
        return options.size.num_images[1]
    if not trainings:
        return 0
    data = trainings[0].config.data
    try:
        return len(load_dataset(data.dataset, root=data.root, split=data.val_split, task=data.task))
    except DataError:
        return 0


def _describe_cost(cost: CostEstimate, trainings: int, machine: Machine) -> str:
    if not cost.trainings and not cost.analyses:
        return f"All {trainings} trainings and their analyses are finished."
    jobs = (
        f"{cost.trainings} of {trainings} trainings and {cost.analyses} analyses to run on "
        f"{escape(str(machine))}"
    )
    disk = f"about {_format_bytes(cost.disk)} of disk space"
    if cost.seconds is None:
        return f"{jobs}: {disk}; the time cannot be estimated without the data set."
    duration = _format_duration(cost.seconds / len(machine.slots))
    return f"{jobs}: about {duration} (estimated from {cost.basis}), {disk}."


def _describe_failures(failures: Sequence[Failure], directory: ReproductionDirectory) -> str:
    first = failures[0]
    return (
        f"{directory.root}: {len(failures)} jobs failed; first {first.job.name}: {first.message}; "
        f"see {directory.log(first.job)}, fix the cause and repeat the command"
    )


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
            self._progress.remove_task(self._bars.pop(ended.name))
            minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
            done = "trained" if ended.is_training else "analysed"
            status = done if ended.finished else "[red]failed[/]"
            self._progress.console.print(
                f"[dim]{minutes}:{seconds:02d}[/] {escape(ended.name)} {status}", soft_wrap=True
            )
