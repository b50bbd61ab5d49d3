"""How long a reproduction will take and how much disk it will fill: estimates, and said as such."""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mpdiag.config import TrainConfig
from mpdiag.data import TrainingBatches, build_augmentation, generate_synthetic, load_dataset
from mpdiag.errors import DataError
from mpdiag.reproduce.directory import Job, ReproductionDirectory, read_json
from mpdiag.reproduce.experiments import SeededTraining, Size
from reports.reproduction import logged_steps, seconds_per_step
from trainers.loop import fit
from trainers.ranks import Ranks
from trainers.trainer import Trainer

STEPS = 4  # that are timed where no earlier run tells, after one that is not
_IMAGES = 32  # of the synthetic data that these steps see

# Bytes: of an optimizer's state, of a resumable and of a final checkpoint, for each parameter.
_CHECKPOINT = 16
# A row of a run directory, compressed; masks and pictures of the worst queries. As measured.
_ROW, _KEPT = 60, 600_000
_PUBLISHED = 44_000_000  # parameters of the R50 model, where none can be built for want of data
# Seconds of analysis for one image, in terms of those of a training step for one image.
_ANALYSIS = 1.5


@dataclass(slots=True)
class CostEstimate:
    """What is left to do.

    Attributes:
        trainings, analyses: how many of them.
        seconds: alone on the machine, one after the other; None where nothing could be timed.
        measured_on: what the seconds were measured on.
        disk: bytes that are still to come.
    """

    trainings: int
    analyses: int
    seconds: float | None
    measured_on: str
    disk: int


class StepTimes:
    """Seconds of a step of each method: of earlier runs in the directory, else of a few steps."""

    def __init__(self, layout: ReproductionDirectory, size: Size) -> None:
        self.layout, self.size = layout, size
        self._measured: dict[bool, tuple[float, int]] = {}
        self.first_steps = False

    def of_step(self, trained: SeededTraining) -> tuple[float, int]:
        """Seconds of a training step, and the model's parameters.

        Raises:
            DataError: its data set is not there to be timed on.
        """
        if self.size.alone and not torch.cuda.is_available():
            raise DataError("a step at this size takes minutes on a CPU")
        if trained.piloted not in self._measured:
            self._measured[trained.piloted] = _first_steps(trained.config, self.size)
        seconds, parameters = self._measured[trained.piloted]
        logged = seconds_per_step(self.layout.training(trained.key))
        if logged is None:
            self.first_steps = True
        return logged or seconds, parameters


def estimate_cost(
    trainings: Sequence[SeededTraining], layout: ReproductionDirectory, size: Size, val_images: int
) -> CostEstimate:
    """What is left of these trainings and their analyses."""
    pace = StepTimes(layout, size)
    found = CostEstimate(0, 0, 0.0, "", 0)
    if size.images and not (layout.data / "synthetic" / "synthetic.json").is_file():
        found.disk += sum(size.images) * 9_000
    for trained in trainings:
        todo = [step for step in layout.steps(trained) if not step.finished]
        if not todo:
            continue
        try:
            seconds, parameters = pace.of_step(trained)
        except DataError:
            found.seconds, seconds, parameters = None, 0.0, _PUBLISHED
        for step in todo:
            took, disk = _of(step, trained, layout, seconds, parameters, val_images)
            found.trainings += step.trains
            found.analyses += not step.trains
            found.disk += disk
            if found.seconds is not None:
                found.seconds += took
    found.measured_on = f"{STEPS} steps" if pace.first_steps else "steps of earlier runs"
    return found


def _of(
    step: Job,
    trained: SeededTraining,
    layout: ReproductionDirectory,
    seconds: float,
    parameters: int,
    val_images: int,
) -> tuple[float, int]:
    """Seconds and bytes of what is left of a step."""
    config = trained.config
    if step.trains:
        left = config.schedule.iterations - logged_steps(layout.training(trained.key))
        return max(left, 0) * seconds, parameters * _CHECKPOINT
    timings = read_json(step.output / "run.json").get("timings")
    known = timings.get("seconds") if isinstance(timings, dict) else None
    model = config.model
    rows = val_images * (model.decoder_layers + 1) * model.num_queries
    each = _ANALYSIS * seconds / config.data.batch_size
    return float(known or each * val_images), rows * _ROW + _KEPT


def _first_steps(config: TrainConfig, size: Size) -> tuple[float, int]:
    """Seconds of one of the first steps, and the model's parameters."""
    for name in ("trainers.warm_start", "mpdiag.ops"):  # each training says this for itself
        logging.getLogger(name).setLevel(logging.WARNING)
    with TemporaryDirectory() as folder:
        root = config.data.root
        if size.images is not None:
            root = Path(folder)
            generate_synthetic(root / "synthetic", train=_IMAGES, val=1)
        data = config.data
        dataset = load_dataset(data.dataset, root=root, split=data.train_split, task=data.task)
        share = -(-data.batch_size // max(torch.cuda.device_count(), 1))
        batches = TrainingBatches(
            dataset,
            share if size.alone else data.batch_size,
            seed=0,
            transform=build_augmentation(data),
            filter_empty=True,
        )
        fitted = fit(config, len(dataset.classes), batches.num_images)
        trainer = Trainer(fitted, dataset.classes, Ranks.join())
        stream = batches.start(0)
        seconds = [_timed(lambda: trainer.step(next(stream), batches.batch_positions)[1].item())
                   for _ in range(STEPS + 1)]  # fmt: skip
    parameters = sum(weights.numel() for weights in trainer.model.parameters())
    return statistics.median(seconds[1:]), parameters


def _timed(work: Callable[[], object]) -> float:
    since = time.perf_counter()
    work()
    return time.perf_counter() - since
