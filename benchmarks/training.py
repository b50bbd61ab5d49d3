"""How fast training is, phase by phase, beside a peer's: the body of `mpdiag bench train`.

All that is compared takes the same batches, in turn, in one process, so that what else the machine
does falls on all alike. Numbers are medians over the steps.
"""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import rich.box
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import nn

from mpdiag.checkpoints.transformers_directory import write_transformers
from mpdiag.config import TrainConfig
from mpdiag.data import (
    Sample,
    SegmentationDataset,
    TrainingBatches,
    build_augmentation,
    load_dataset,
)
from mpdiag.errors import ConfigError, DependencyError
from trainers.layer_metrics import LayerMetricsMonitor
from trainers.loop import fit
from trainers.methods import Batch, Randomness, SetPrediction
from benchmarks.official_step import OfficialStep
from trainers.distributed import DistributedContext
from trainers.trainer import AUTOCAST, Trainer

PHASES = ("data", "forward", "matching", "losses", "backward", "optimizer")
WARM_UP = 2  # steps that are not counted


@dataclass(slots=True)
class Timing:
    """What one of those compared took.

    Attributes:
        name: what it is.
        images: of a step.
        steps: seconds of each counted step by phase; the peer has one phase, `step`.
        peak: bytes of GPU memory that a step takes beyond what lay there before, at the most; None
            on a CPU. Weights and optimizer of all that is compared lie there all the time.
        diagnosis: share that the diagnosis on the way adds to a training's time, as often as the
            recipe asks for it; None of peers, and where it isn't asked for.
    """

    name: str
    images: int
    steps: list[dict[str, float]] = field(default_factory=list)
    peak: int | None = None
    diagnosis: float | None = None

    def seconds(self, phase: str) -> float:
        """Median of a phase."""
        return median(step[phase] for step in self.steps)

    def step_seconds(self) -> float:
        """Median of a whole step without waiting for data."""
        return median(sum(v for k, v in step.items() if k != "data") for step in self.steps)

    def images_a_second(self) -> float:
        """Images of a step by the seconds of a step."""
        return self.images / self.step_seconds()

    def as_json(self) -> dict[str, Any]:
        """All medians."""
        phases = {phase: self.seconds(phase) for phase in self.steps[0]}
        rate = {"images_a_second": self.images_a_second()}
        named = {"name": self.name, "seconds": phases, **rate, "peak_bytes": self.peak}
        return named | {"diagnosis_share": self.diagnosis}


def bench_training(
    config: TrainConfig, *, steps: int, peer: bool, official: Path | None = None
) -> list[Timing]:
    """Time steps of the baseline, of multi-layer MP, and of peers.

    Args:
        config: a recipe; its method is set by what is timed.
        steps: how many are counted.
        peer: take transformers' model of the same dimensions, with its own loss, too.
        official: a checkout of Mask2Former or MP-Former, whose model and loss are taken, too.

    Raises:
        ConfigError, DataError: the recipe or its data set is wrong.
        DependencyError: transformers is not installed, or the checkout can't be imported.
    """
    if steps < 1:
        raise ConfigError(f"--steps {steps}: give the number of steps to time, at least 1")
    data = config.data
    dataset = load_dataset(data.dataset, root=data.root, split=data.train_split, task=data.task)
    transform = build_augmentation(data)
    batches = TrainingBatches(
        dataset, data.batch_size, config.seed, transform, data.num_workers, filter_empty=True
    )
    distributed = DistributedContext.initialize()

    def trainer(method: str) -> Trainer:
        asked = config.model_copy(update={"method": method, "init": None})
        return Trainer(fit(asked, len(dataset.classes), batches.num_images), dataset.classes, distributed)

    runners: list[tuple[str, TakeStep]] = [
        ("baseline", OurStep(trainer("baseline"))),
        ("multi-layer MP", OurStep(trainer("piloted"))),
    ]
    if peer:
        runners.append(("transformers", PeerStep(trainer("baseline"))))
    if official is not None:
        runners.append(_official(official, trainer("baseline")))
    timings = [Timing(name, data.batch_size) for name, _ in runners]
    stream = batches.start(0)
    for number in range(WARM_UP + steps):
        since = time.perf_counter()
        samples = next(stream)
        waited = time.perf_counter() - since
        for timing, (_, take_step) in zip(timings, runners, strict=True):
            clock = Clock(distributed.device)
            take_step(samples, clock)
            if number >= WARM_UP:
                timing.steps.append({"data": waited, **clock.phases})
                timing.peak = clock.peak(timing.peak)
    for timing, (_, take_step) in zip(timings, runners, strict=True):
        if isinstance(take_step, OurStep):
            timing.diagnosis = _diagnosis_share(dataset, take_step.trainer, timing.step_seconds())
    return timings


def _diagnosis_share(
    data: SegmentationDataset, trainer: Trainer, step_seconds: float
) -> float | None:
    """Seconds of a diagnosis by those of the steps between two."""
    every = trainer.config.layer_metrics_every
    if every is None:
        return None
    diagnosis = LayerMetricsMonitor(data, trainer)
    clock = Clock(trainer.distributed.device)
    diagnosis.measure(trainer)
    clock.lap("diagnosis")
    return clock.phases["diagnosis"] / (every * step_seconds)


class Clock:
    """Seconds of each phase, and how far the device's memory rose; waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.phases: dict[str, float] = {}
        self._cuda = device.type == "cuda"
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        self._since = self._now()

    def lap(self, phase: str) -> None:
        """What was done since the last lap was this."""
        now = self._now()
        self.phases[phase] = now - self._since
        self._since = now

    def peak(self, before: int | None) -> int | None:
        """The larger of this rise and the one `before`, in bytes; None on a CPU."""
        if not self._cuda:
            return None
        return max(before or 0, torch.cuda.max_memory_allocated() - self._before)

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


TakeStep = Callable[[list[Sample], Clock], None]


class OurStep:
    """A step of the trainer on one process, phase by phase."""

    def __init__(self, trainer: Trainer) -> None:
        if not isinstance(trainer.method, SetPrediction):
            raise ConfigError("method = per-pixel: has no queries whose training could be timed")
        self.trainer, self.method = trainer, trainer.method.train()

    def __call__(self, samples: list[Sample], clock: Clock) -> None:
        trainer, method, config = self.trainer, self.method, self.trainer.config
        device = trainer.distributed.device
        draws = Randomness.for_step(config.seed, trainer.iteration, range(len(samples)), device)
        batch = Batch.from_samples(samples, draws)
        normalizers = trainer.distributed.mean_normalizers([method.normalizers(batch.targets)])
        trainer.optimizer.zero_grad(set_to_none=True)
        predicted = method.predict(batch, AUTOCAST[config.precision])
        clock.lap("forward")
        assigned = method.assign(predicted, batch)
        clock.lap("matching")
        losses = method.losses(predicted, assigned, batch, normalizers)
        total = torch.stack(list(losses.values())).sum()
        clock.lap("losses")
        total.backward()
        clock.lap("backward")
        nn.utils.clip_grad_norm_(method.parameters(), config.optimizer.clip_norm)
        trainer.optimizer.step()
        trainer.schedule.step()
        trainer.iteration += 1
        clock.lap("optimizer")


class PeerStep:
    """A step of transformers' Mask2Former of the same dimensions, with its own loss."""

    def __init__(self, trainer: Trainer) -> None:
        try:
            transformers: Any = importlib.import_module("transformers")
        except ImportError:
            raise DependencyError(
                "the peer is transformers' Mask2Former: pip install 'mpdiag[transformers]', or "
                "leave it out with --no-peer"
            ) from None
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.trainer, config, loss = trainer, trainer.config, trainer.config.loss
        device = trainer.distributed.device
        # Where ours compares all cells, the peer draws as many points.
        self._points = None if loss.num_points == "all" else loss.num_points
        with TemporaryDirectory() as folder:
            write_transformers(Path(folder), trainer.model)
            form = transformers.Mask2FormerForUniversalSegmentation
            self.model: Any = form.from_pretrained(folder).to(device).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            config.optimizer.learning_rate,
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )

    def __call__(self, samples: list[Sample], clock: Clock) -> None:
        trainer, config = self.trainer, self.trainer.config
        device, images = trainer.distributed.device, [sample.image for sample in samples]
        pixels = trainer.model.preprocess([image.to(device) for image in images])
        height, width = pixels.shape[-2:]
        criterion = self.model.criterion
        criterion.num_points = self._points or (height // 4) * (width // 4)
        criterion.matcher.num_points = criterion.num_points
        masks = [
            F.pad(s.masks, (0, width - s.masks.shape[-1], 0, height - s.masks.shape[-2]))
            for s in samples
        ]
        with trainer.autocast():
            output = self.model(
                pixel_values=pixels,
                mask_labels=[mask.to(device, torch.float32) for mask in masks],
                class_labels=[sample.labels.to(device) for sample in samples],
            )
        self.optimizer.zero_grad(set_to_none=True)
        output.loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), config.optimizer.clip_norm)
        self.optimizer.step()
        clock.lap("step")


def _official(folder: Path, trainer: Trainer) -> tuple[str, TakeStep]:
    """The official model of the trainer's recipe, by name, and its step."""
    step = OfficialStep(folder, trainer.config, trainer.distributed.device)

    def take_step(samples: list[Sample], clock: Clock) -> None:
        step(samples, trainer.autocast())
        clock.lap("step")

    return step.name, take_step


def table(timings: list[Timing]) -> Table:
    """Milliseconds of each phase, images a second, and steps in terms of the baseline's."""
    view = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, title="Medians, in milliseconds")
    view.add_column("")
    for phase in (*PHASES, "step"):
        view.add_column(phase, justify="right")
    for name in ("images/s", "times the baseline", "memory of a step", "diagnosis"):
        view.add_column(name, justify="right")
    base = timings[0].step_seconds()
    for timing in timings:
        known = timing.steps[0]
        phases = [f"{1e3 * timing.seconds(p):.1f}" if p in known else "" for p in PHASES]
        took = timing.step_seconds()
        peak = "" if timing.peak is None else f"{timing.peak / 2**30:.1f} GiB"
        rates = (f"{1e3 * took:.1f}", f"{timing.images_a_second():.2f}", f"{took / base:.2f}", peak)
        share = "" if timing.diagnosis is None else f"{timing.diagnosis:.2%}"
        view.add_row(timing.name, *phases, *rates, share)
    return view
