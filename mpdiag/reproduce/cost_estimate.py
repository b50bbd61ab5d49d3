"""Estimate the time and the disk space of a reproduction."""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mpdiag.checkpoints.loading import build_model
from mpdiag.config import DataConfig, DataSource, ModelConfig, TrainConfig
from mpdiag.data import (
    TrainingBatches,
    build_augmentation,
    generate_synthetic,
    load_dataset,
    load_held_out,
)
from mpdiag.data.registry import find_folder
from mpdiag.errors import DataError
from mpdiag.models.complexity import count_parameters
from mpdiag.reproduce.directory import Job, ReproductionDirectory, read_json
from mpdiag.reproduce.experiments import ReproductionSize, SeededTraining
from mpdiag.reproduce.scheduler import call_in_child
from reports.reproduction import logged_steps, seconds_per_step
from trainers.distributed import DistributedContext
from trainers.loop import resolve
from trainers.trainer import Trainer

TIMED_STEPS = 4  # after one warm-up step, if no earlier run has logged its steps
_TIMED_IMAGES = 32  # synthetic images for these steps

_BYTES_PER_PARAMETER = 16  # optimizer state, resumable and final checkpoint
_BYTES_PER_ROW, _BYTES_OF_MASKS = 60, 600_000  # of a run directory, compressed, as measured
_BYTES_PER_IMAGE = 9_000  # of the synthetic data set
_ANALYSIS_STEPS = 1.5  # time to analyse an image, in training steps per image


@dataclass(slots=True)
class CostEstimate:
    """Cost of the unfinished jobs.

    Attributes:
        trainings, analyses: number of jobs.
        seconds: sum over the jobs, each alone on the machine; None if no step could be timed.
        basis: what the seconds were measured on.
        disk: bytes still to be written.
        problem: why no step could be timed.
    """

    trainings: int
    analyses: int
    seconds: float | None
    basis: str
    disk: int
    problem: str = ""


class StepTimer:
    """Seconds per training step, from the training's log or from a few timed steps."""

    def __init__(self, directory: ReproductionDirectory, size: ReproductionSize) -> None:
        self.directory, self.size = directory, size
        self.basis = "steps of earlier runs"
        self._timed: dict[str, float] = {}

    def time_step(self, training: SeededTraining) -> float:
        """Return seconds per step.

        Raises:
            DataError: the data set is missing, or a step would take too long.
        """
        logged = seconds_per_step(self.directory.training(training.name))
        if logged is not None:
            return logged
        data = training.config.data
        if self.size.tiles is not None and find_folder(data.dataset, data.root) is None:
            raise DataError("the first call cuts the tiles that a step needs")
        if self.size.uses_all_gpus and not torch.cuda.is_available():
            raise DataError("a step at this size takes minutes on a CPU")
        method = training.config.method
        if method not in self._timed:
            self._timed[method] = call_in_child(_time_first_steps, training.config, self.size)
        self.basis = f"{TIMED_STEPS} steps"
        return self._timed[method]


def estimate_cost(
    trainings: Sequence[SeededTraining],
    directory: ReproductionDirectory,
    size: ReproductionSize,
) -> CostEstimate:
    """Estimate the cost of the unfinished jobs of these trainings."""
    timer = StepTimer(directory, size)
    total = CostEstimate(0, 0, 0.0, "", 0)
    if size.num_images and not (directory.data / "synthetic" / "synthetic.json").is_file():
        total.disk += sum(size.num_images) * _BYTES_PER_IMAGE
    parameters: dict[str, int] = {}
    val_images: dict[DataSource, int] = {}
    for training in trainings:
        unfinished = [job for job in directory.jobs(training) if not job.finished]
        if not unfinished:
            continue
        try:
            step_seconds = timer.time_step(training)
        except DataError as error:
            total.seconds, step_seconds, total.problem = None, 0.0, str(error)
        method, held_out = training.config.method, training.config.data.held_out
        if method not in parameters:
            parameters[method] = _count_parameters(training.config.model)
        if held_out not in val_images:
            val_images[held_out] = _count_val_images(training.config.data, size)
        for job in unfinished:
            seconds, disk = _job_cost(
                job, training, step_seconds, parameters[method], val_images[held_out]
            )
            total.trainings += job.is_training
            total.analyses += not job.is_training
            total.disk += disk
            if total.seconds is not None:
                total.seconds += seconds
    total.basis = timer.basis
    return total


def _job_cost(
    job: Job, training: SeededTraining, step_seconds: float, parameters: int, val_images: int
) -> tuple[float, int]:
    """Return seconds and bytes that a job still takes."""
    config = training.config
    if job.is_training:
        steps = config.schedule.iterations - logged_steps(job.output)
        return max(steps, 0) * step_seconds, parameters * _BYTES_PER_PARAMETER
    timings = read_json(job.output / "run.json").get("timings")
    known = timings.get("seconds") if isinstance(timings, dict) else None
    rows = val_images * (config.model.decoder_layers + 1) * config.model.num_queries
    per_image = _ANALYSIS_STEPS * step_seconds / config.data.batch_size
    return float(known or per_image * val_images), rows * _BYTES_PER_ROW + _BYTES_OF_MASKS


def _count_val_images(data: DataConfig, size: ReproductionSize) -> int:
    """Return the number of images of an analysis; 0 if the data set is missing."""
    if size.num_images is not None:
        return size.num_images[1]
    if size.has_own_data and find_folder(data.dataset, data.root) is None:
        return 0
    try:
        return len(load_held_out(data))
    except DataError:
        return 0


def _count_parameters(config: ModelConfig) -> int:
    """Return the number of parameters; the number of classes hardly changes it."""
    with torch.device("meta"):  # without memory
        return count_parameters(build_model(config))["total"]


def _time_first_steps(config: TrainConfig, size: ReproductionSize) -> float:
    """Return the seconds of one of the first steps."""
    for name in ("trainers.initialization", "mpdiag.ops"):  # each training logs these itself
        logging.getLogger(name).setLevel(logging.WARNING)
    with TemporaryDirectory() as folder:
        data = config.data
        if size.num_images is not None:
            data = data.model_copy(update={"root": Path(folder)})
            generate_synthetic(Path(folder) / "synthetic", train=_TIMED_IMAGES, val=1)
        dataset = load_dataset(**data.training._asdict())
        per_gpu = -(-data.batch_size // max(torch.cuda.device_count(), 1))
        batches = TrainingBatches(
            dataset,
            per_gpu if size.uses_all_gpus else data.batch_size,
            seed=0,
            transform=build_augmentation(data),
            filter_empty=True,
        )
        config = config.model_copy(update={"init": None})  # not trained yet, and not slower
        resolved = resolve(config, len(dataset.classes), batches.num_images)
        trainer = Trainer(resolved, dataset.classes, DistributedContext.initialize())
        stream = batches.start(0)
        seconds = [_time(lambda: trainer.step(next(stream), batches.batch_positions)[1].item())
                   for _ in range(TIMED_STEPS + 1)]  # fmt: skip
    return statistics.median(seconds[1:])


def _time(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
