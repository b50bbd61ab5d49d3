"""`mpdiag reproduce`: train what is missing, analyse it, and write the report."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from mpdiag.data import generate_synthetic, load_held_out
from mpdiag.data.registry import default_root, find_folder, held_out_source
from mpdiag.data.tiles import MANIFEST, prepare_tiles
from mpdiag.errors import ConfigError, DataError, TrainingError
from mpdiag.progress import progress_bar
from mpdiag.reproduce.cost_estimate import CostEstimate, estimate_cost
from mpdiag.reproduce.directory import Job, ReproductionDirectory, read_json
from mpdiag.reproduce.experiments import (
    SIZES,
    TRAININGS,
    ReproductionSize,
    SeededTraining,
    TrainingSpec,
    configure_training,
    configure_warm_start,
    expand_targets,
    required_trainings,
)
from mpdiag.reproduce.explanations import EXPLANATIONS_FILE, read_explanations
from mpdiag.reproduce.reporting import measure_costs, measure_noise, write_reproduction_report
from mpdiag.reproduce.resampling import resample_runs
from mpdiag.reproduce.scheduler import Failure, Machine, Running, plan_machine, run_job_chains
from reports.reproduction import TABLES, ReproductionContext, logged_steps


@dataclass(frozen=True, slots=True)
class ReproductionOptions:
    """Options of `mpdiag reproduce`.

    Attributes:
        targets: tables and figures.
        seeds: of each training.
        output: directory of all files.
        root: folder of the data sets, unless the size generates its own; None takes that of the
            recipes.
        jobs: number of concurrent trainings; None runs as many as fit.
        only: names of the trainings to run, in this order; empty for all.
        show_images: draw masks over the images in the report.
    """

    targets: Sequence[str]
    size: ReproductionSize
    seeds: Sequence[int]
    output: Path
    root: Path | None = None
    jobs: int | None = None
    only: Sequence[str] = ()
    show_images: bool = True

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
            self._configure(spec, seed)
            for seed in self.seeds
            for spec in required_trainings(self.targets, self.size, self.only)
        ]

    def baseline(self) -> SeededTraining:
        """Return the baseline with the first seed, also if no target needs it."""
        return self._configure(TRAININGS["baseline"], self.seeds[0])

    def warm_start(self) -> SeededTraining | None:
        """Return the training whose weights all others start from; None if there is none."""
        return configure_warm_start(self.size, self._data_root())

    def command(self) -> str:
        """Return the command line of these options."""
        overrides = self.size.overrides[len(SIZES[self.size.name].overrides) :]
        words = ["mpdiag", "reproduce", *expand_targets(self.targets), *overrides]
        words += ["--size", self.size.name]
        words += ["--root", str(self.root)] if self.root is not None else []
        words += ["--only", ",".join(self.only)] if self.only else []
        words += ["--seeds", ",".join(map(str, self.seeds)), "--output", str(self.output)]
        words += [] if self.show_images else ["--no-images"]
        return shlex.join(words)

    def _configure(self, spec: TrainingSpec, seed: int) -> SeededTraining:
        warm_start = self.warm_start()
        init = None if warm_start is None else self.directory.training(warm_start.name)
        return configure_training(spec, seed, self.size, self._data_root(), init)

    def _data_root(self) -> Path | None:
        return self.directory.data.absolute() if self.size.has_own_data else self.root


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of a text such as `0,1,2`.

    Raises:
        ConfigError: the text is something else.
    """
    words = [word.strip() for word in text.split(",")]
    seeds = [int(word) for word in words if word.isdecimal() and len(word) < 19]
    if len(set(seeds)) != len(words):
        raise ConfigError(
            f"--seeds {text:.60}: not a list of seeds; give distinct integers like 0,1,2"
        )
    return seeds


def reproduce(
    options: ReproductionOptions,
    console: Console,
    *,
    plan: bool = False,
    report_only: bool = False,
) -> list[Path]:
    """Run the unfinished jobs and write the report.

    Args:
        plan: print the number of jobs, their time and disk space, and stop.
        report_only: run no job and report on the trainings that the directory has.

    Returns:
        The files of the report.

    Raises:
        MpdiagError: the options, the directory or the data are invalid; no job has run.
        TrainingError: jobs failed; the others are finished, and the report lists what is missing.
        StoppedBySignalError: SIGTERM, SIGHUP or Ctrl-C; the same command resumes.
    """
    trainings, directory = options.trainings(), options.directory
    explanations = read_explanations(directory.root / EXPLANATIONS_FILE, tuple(TABLES))
    if report_only:
        trainings = directory.registered(trainings)
        directory.check(options.size.name, trainings)
        seeds = sorted({training.seed for training in trainings})
        options = replace(options, seeds=seeds or options.seeds)
        failures: list[Failure] = []
    else:
        first = options.warm_start() if trainings else None
        jobs = _Jobs(trainings, [] if first is None else [first], directory)
        machine = plan_machine(options.size, options.jobs)
        if plan:
            console.print(jobs.describe(options, machine), soft_wrap=True)
            return []
        failures = jobs.run(options, machine, console)
    files = write_reproduction_report(
        _context(options, trainings, explanations), trainings, directory
    )
    if failures:
        raise TrainingError(_describe_failures(failures, directory))
    return files


@dataclass(frozen=True, slots=True)
class _Jobs:
    """The jobs of trainings, and of the trainings that must be finished before."""

    trainings: Sequence[SeededTraining]
    first: Sequence[SeededTraining]
    directory: ReproductionDirectory

    def describe(self, options: ReproductionOptions, machine: Machine) -> str:
        """Return number, time and disk space of the unfinished jobs."""
        every = [*self.first, *self.trainings]
        val_images = _count_val_images(options, self.trainings)
        cost = estimate_cost(every, self.directory, options.size, val_images)
        return _describe_cost(cost, len(every), machine)

    def run(
        self, options: ReproductionOptions, machine: Machine, console: Console
    ) -> list[Failure]:
        """Create the data set, run the unfinished jobs and return those that failed."""
        every = [*self.first, *self.trainings]
        call = {
            "command": options.command(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": str(machine),
        }
        unfinished = any(not job.finished for one in every for job in self.directory.jobs(one))
        self.directory.register(options.size.name, every, call if unfinished else None)
        create_dataset(options.size, self.directory.data, options.root, console)
        for one in self.trainings:
            held_out_source(one.config.data)  # the analyses need them
        console.print(self.describe(options, machine), soft_wrap=True)
        failures: list[Failure] = []
        with ProgressDisplay(every, console) as display:
            for group in (self.first, self.trainings):
                chains = [self.directory.jobs(training) for training in group]
                failures += run_job_chains(chains, self.directory, machine, display.update)
                if failures:
                    break
        return failures


def create_dataset(
    size: ReproductionSize, folder: Path, root: Path | None, console: Console
) -> None:
    """Create the data set of a size below `folder`, if the size has its own.

    Args:
        root: folder of the data set to cut into tiles, unless they exist.

    Raises:
        DataError: the data set is missing, or the folder cannot be written.
    """
    if size.num_images is not None:
        train, val = size.num_images
        with progress_bar(console, "generating") as progress:
            generate_synthetic(folder / "synthetic", train=train, val=val, progress=progress)
    elif size.tiles is not None:
        tiles = size.tiles
        if find_folder(tiles.dataset, root) is None:
            cut = read_json(folder / tiles.name / MANIFEST)
            if (cut.get("side"), cut.get("scale")) == (tiles.side, tiles.scale):
                return  # the original images are no longer needed
            raise DataError(
                f"{(root or default_root()) / tiles.dataset}: not found; run mpdiag data prepare "
                f"{tiles.dataset} --from CLONE, or give the folder of the data set as --root"
            )
        with progress_bar(console, "cutting") as progress:
            prepare_tiles(
                tiles.dataset,
                folder / tiles.name,
                side=tiles.side,
                scale=tiles.scale,
                root=root,
                progress=progress,
            )


def _context(
    options: ReproductionOptions,
    trainings: Sequence[SeededTraining],
    explanations: Mapping[str, Sequence[str]],
) -> ReproductionContext:
    targets, directory = expand_targets(options.targets), options.directory
    return ReproductionContext(
        targets=targets,
        size=options.size.name,
        description=options.size.description,
        command=options.command(),
        machines=directory.machines(),
        costs=measure_costs(trainings, directory) if "table7" in targets else {},
        noise=measure_noise(options.baseline(), directory) if "figure4" in targets else None,
        explanations=explanations,
        resampled=resample_runs(trainings, directory),
        show_images=options.show_images,
    )


def _count_val_images(options: ReproductionOptions, trainings: Sequence[SeededTraining]) -> int:
    """Return the number of images of an analysis; 0 if the data set is missing."""
    if options.size.num_images is not None:
        return options.size.num_images[1]
    if not trainings:
        return 0
    data = trainings[0].config.data
    if options.size.has_own_data and find_folder(data.dataset, data.root) is None:
        return 0
    try:
        return len(load_held_out(data))
    except DataError:
        return 0


def _describe_cost(cost: CostEstimate, trainings: int, machine: Machine) -> str:
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


def _describe_failures(failures: Sequence[Failure], directory: ReproductionDirectory) -> str:
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
