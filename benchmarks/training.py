"""`mpdiag bench train`: time of a training step by phase, compared with other implementations.

All implementations take the same batches in turn in one process, which exposes them to the same
load of the machine. Numbers are medians over steps.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import rich.box
import torch
from rich.table import Table
from torch import nn

from benchmarks.official_step import OfficialStep
from benchmarks.transformers_step import TransformersStep
from mpdiag.config import TrainConfig
from mpdiag.data import (
    Sample,
    SegmentationDataset,
    TrainingBatches,
    build_augmentation,
    load_dataset,
)
from mpdiag.errors import ConfigError
from trainers.distributed import DistributedContext, mean_normalizers
from trainers.layer_metrics import LayerMetricsMonitor
from trainers.loop import resolve
from trainers.methods import Batch, Randomness
from trainers.trainer import AUTOCAST, Trainer

PHASES = ("data", "forward", "matching", "losses", "backward", "optimizer")
WARM_UP = 2  # untimed steps


@dataclass(slots=True)
class StepTiming:
    """Times of one implementation.

    Attributes:
        name: name of the implementation.
        images: number of images of a step.
        steps: seconds of each timed step by phase; other implementations have one phase, `step`.
        peak: increase of GPU memory during a step in bytes, None on a CPU. The weights and
            optimizers of all implementations are in memory all the time.
        layer_metrics: time of the layer metrics as a fraction of the training time, at the interval
            of the recipe; None without layer metrics.
    """

    name: str
    images: int
    steps: list[dict[str, float]] = field(default_factory=list)
    peak: int | None = None
    layer_metrics: float | None = None

    def seconds(self, phase: str) -> float:
        """Return the median seconds of a phase."""
        return median(step[phase] for step in self.steps)

    def step_seconds(self) -> float:
        """Return the median seconds of a step, without waiting for data."""
        return median(sum(v for k, v in step.items() if k != "data") for step in self.steps)

    def images_per_second(self) -> float:
        """Return the images per second, without waiting for data."""
        return self.images / self.step_seconds()

    def as_json(self) -> dict[str, Any]:
        """Return the medians for JSON."""
        return {
            "name": self.name,
            "seconds": {phase: self.seconds(phase) for phase in self.steps[0]},
            "images_per_second": self.images_per_second(),
            "peak_bytes": self.peak,
            "layer_metrics_fraction": self.layer_metrics,
        }


def bench_training(
    config: TrainConfig, *, steps: int, peer: bool, official: Path | None = None
) -> list[StepTiming]:
    """Time steps of the baseline, of multi-layer MP, and of other implementations.

    Args:
        config: a recipe; its method is ignored.
        steps: number of timed steps.
        peer: include transformers' Mask2Former of the same dimensions, with its own loss.
        official: a checkout of Mask2Former or MP-Former to include, with its own loss.

    Raises:
        ConfigError, DataError: the recipe or its data set is wrong.
        DependencyError: transformers is not installed, or the checkout cannot be imported.
    """
    if steps < 1:
        raise ConfigError(f"--steps {steps}: give the number of steps to time, at least 1")
    if config.gradient_accumulation_steps > 1:
        raise ConfigError(
            f"gradient_accumulation_steps = {config.gradient_accumulation_steps}: steps are timed "
            "without accumulation; set gradient_accumulation_steps=1 and data.batch_size=IMAGES of "
            "one forward pass"
        )
    data = config.data
    dataset = load_dataset(**data.training._asdict())
    transform = build_augmentation(data)
    batches = TrainingBatches(
        dataset, data.batch_size, config.seed, transform, data.num_workers, filter_empty=True
    )
    distributed = DistributedContext.initialize()

    def trainer(method: str) -> Trainer:
        changed = config.model_copy(update={"method": method, "init": None})
        resolved = resolve(changed, len(dataset.classes), batches.num_images)
        return Trainer(resolved, dataset.classes, distributed)

    implementations = build_implementations(trainer, peer=peer, official=official)
    timings = time_steps(implementations, batches.start(0), steps)
    for timing, take_step in zip(timings, implementations.values(), strict=True):
        if isinstance(take_step, TrainerStep):
            timing.layer_metrics = _layer_metrics_fraction(
                dataset, take_step.trainer, timing.step_seconds()
            )
    return timings


def build_implementations(
    trainer: Callable[[str], Trainer], *, peer: bool, official: Path | None
) -> dict[str, "TakeStep"]:
    """Return a step of each implementation by name; `trainer` builds that of a method."""
    implementations: dict[str, TakeStep] = {
        "baseline": TrainerStep(trainer("baseline")),
        "multi-layer MP": TrainerStep(trainer("piloted")),
    }
    if peer:
        implementations["transformers"] = _without_phases(TransformersStep(trainer("baseline")))
    if official is not None:
        name, take_step = _official(official, trainer("baseline"))
        implementations[name] = take_step
    return implementations


def time_steps(
    implementations: Mapping[str, "TakeStep"], batches: Iterator[list[Sample]], steps: int
) -> list[StepTiming]:
    """Time `steps` batches, which all implementations take in turn, after untimed ones."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    timings: dict[str, StepTiming] = {}
    for number in range(WARM_UP + steps):
        started = time.perf_counter()
        samples = next(batches)
        waited = time.perf_counter() - started
        for name, take_step in implementations.items():
            clock = PhaseClock(device)
            take_step(samples, clock)
            if number >= WARM_UP:
                timing = timings.setdefault(name, StepTiming(name, len(samples)))
                timing.steps.append({"data": waited, **clock.phases})
                timing.peak = clock.peak(timing.peak)
    return list(timings.values())


def _layer_metrics_fraction(
    data: SegmentationDataset, trainer: Trainer, step_seconds: float
) -> float | None:
    """Return the time of the layer metrics as a fraction of the steps between them."""
    every = trainer.config.layer_metrics_every
    if every is None:
        return None
    monitor = LayerMetricsMonitor(data, trainer)
    clock = PhaseClock(trainer.distributed.device)
    monitor.measure(trainer)
    clock.lap("layer metrics")
    return clock.phases["layer metrics"] / (every * step_seconds)


class PhaseClock:
    """Measures the seconds of each phase and the increase of GPU memory; synchronises the GPU."""

    def __init__(self, device: torch.device) -> None:
        self.phases: dict[str, float] = {}
        self._cuda = device.type == "cuda"
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        self._last = self._now()

    def lap(self, phase: str) -> None:
        """Record the time since the last lap as that of a phase."""
        now = self._now()
        self.phases[phase] = now - self._last
        self._last = now

    def peak(self, previous: int | None) -> int | None:
        """Return the maximum of this memory increase and `previous`, in bytes; None on a CPU."""
        if not self._cuda:
            return None
        return max(previous or 0, torch.cuda.max_memory_allocated() - self._before)

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


TakeStep = Callable[[list[Sample], PhaseClock], None]


class TrainerStep:
    """A step of `trainers.Trainer` in one process, timed by phase."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.method = trainer, trainer.method.train()

    def __call__(self, samples: list[Sample], clock: PhaseClock) -> None:
        trainer, method, config = self.trainer, self.method, self.trainer.config
        device = trainer.distributed.device
        draws = Randomness.for_step(config.seed, trainer.iteration, range(len(samples)), device)
        batch = Batch.from_samples(samples, draws, AUTOCAST[config.precision])
        normalizers = mean_normalizers([method.normalizers(batch.targets)], world_size=1)
        trainer.optimizer.zero_grad(set_to_none=True)
        step = method.step(batch, normalizers)
        _ = step.output  # computed at the first access, as is the assignment
        clock.lap("forward")
        _ = step.assignment
        clock.lap("matching")
        total = torch.stack(list(step.losses().values())).sum()
        clock.lap("losses")
        total.backward()
        clock.lap("backward")
        nn.utils.clip_grad_norm_(method.parameters(), config.optimizer.clip_norm)
        trainer.optimizer.step()
        trainer.schedule.step()
        trainer.iteration += 1
        clock.lap("optimizer")


def _without_phases(take_step: Callable[[list[Sample]], None]) -> TakeStep:
    """Return a step that is timed as a whole."""

    def timed(samples: list[Sample], clock: PhaseClock) -> None:
        take_step(samples)
        clock.lap("step")

    return timed


def _official(folder: Path, trainer: Trainer) -> tuple[str, TakeStep]:
    """Return name and step of the official model of the trainer's recipe."""
    step = OfficialStep(folder, trainer.config, trainer.distributed.device)
    return step.name, _without_phases(lambda samples: step(samples, trainer.autocast()))


def training_table(timings: list[StepTiming]) -> Table:
    """Return milliseconds of each phase, images per second, and step times over the baseline's."""
    view = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, title="Medians, in milliseconds")
    view.add_column("")
    for name in (*PHASES, "step", "images/s", "x baseline", "memory of a step", "layer metrics"):
        view.add_column(name, justify="right")
    baseline = timings[0].step_seconds()
    for timing in timings:
        view.add_row(
            timing.name,
            *(f"{1e3 * timing.seconds(p):.1f}" if p in timing.steps[0] else "" for p in PHASES),
            f"{1e3 * timing.step_seconds():.1f}",
            f"{timing.images_per_second():.2f}",
            f"{timing.step_seconds() / baseline:.2f}",
            "" if timing.peak is None else f"{timing.peak / 2**30:.1f} GiB",
            "" if timing.layer_metrics is None else f"{timing.layer_metrics:.2%}",
        )
    return view
