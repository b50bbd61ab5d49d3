"""`mpdiag reproduce`: train what is missing, analyse it, and write the report."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from mpdiag.data import generate_synthetic
from mpdiag.data.registry import default_root, find_folder, held_out_source
from mpdiag.data.tiles import MANIFEST, prepare_tiles
from mpdiag.errors import ConfigError, DataError, TrainingError
from mpdiag.progress import progress_bar
from mpdiag.reproduce.cost_estimate import estimate_cost
from mpdiag.reproduce.directory import ReproductionDirectory, read_json
from mpdiag.reproduce.display import ProgressDisplay, describe_cost, describe_failures
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
from mpdiag.reproduce.scheduler import Failure, Machine, plan_machine, run_job_chains
from reports.reproduction import TABLES, ReproductionContext


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
        raise TrainingError(describe_failures(failures, directory))
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
        cost = estimate_cost(every, self.directory, options.size)
        return describe_cost(cost, len(every), machine)

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
