"""The training loop: steps, checkpoints, evaluations and logging."""

import signal
import time
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn

import torch
from rich.console import Console

from mpdiag.config import TrainConfig
from mpdiag.data import (
    Sample,
    SegmentationDataset,
    TrainingBatches,
    build_augmentation,
    load_dataset,
    load_held_out,
)
from mpdiag.errors import DataError, NonFiniteError, TrainingError
from trainers.distributed import DistributedContext
from trainers.failed_step import dump_failed_step
from trainers.layer_metrics import LayerMetricsMonitor
from trainers.logger import FileLogger, Logger
from trainers.methods import methods_of, needs_label_embedding
from trainers.optimizer import in_iterations
from trainers.output import (
    BEST,
    FINAL,
    LAST,
    check_output_dir,
    create_output_dir,
    lock_output,
)
from trainers.prefetch import prefetch
from trainers.signals import StoppedBySignalError, StopSignal
from trainers.trainer import Trainer
from trainers.validation import validate


def train(
    config: TrainConfig, output: Path, *, resume: bool = False, console: Console | None = None
) -> Path:
    """Train a configuration and return the path of `model_final.pth`.

    Under torchrun, every process calls this function.

    Args:
        config: the recipe. The number of classes and the class embeddings of the MP part follow
            from data set and method.
        output: directory for checkpoints and logs; empty, or with `resume` the directory of this
            run.
        resume: continue from `last.pth`.
        console: console of the progress bar.

    Raises:
        RunError: `output` holds other files or another run, or another process writes to it.
        ConfigError, DataError, CheckpointError: the recipe, its data set or its initial weights
            are invalid.
        TrainingError: a loss or a cost is not finite; a dump in `output` reproduces the step.
        StoppedBySignalError: SIGTERM or Ctrl-C; `last.pth` holds the last step.
    """
    distributed = DistributedContext.initialize()
    try:
        path = _train(config, output, resume, console or Console(stderr=True), distributed)
    except StoppedBySignalError:
        distributed.shutdown()
        raise
    # Not after an error of one process: NCCL would wait for the others, and no error be printed.
    distributed.shutdown()
    return path


def _train(
    config: TrainConfig,
    output: Path,
    resume: bool,
    console: Console,
    distributed: DistributedContext,
) -> Path:
    methods_of(config)  # report an unknown method before reading data
    data = config.data
    dataset = load_dataset(**data.training._asdict())
    held_out = _held_out(config, dataset)
    batches = TrainingBatches(
        dataset,
        data.batch_size,
        config.seed,
        transform=build_augmentation(data),
        workers=data.num_workers,
        rank=distributed.rank,
        world_size=distributed.world_size,
        filter_empty=True,
    )
    config = resolve(config, len(dataset.classes), batches.num_images)
    with lock_output(output, distributed):
        check_output_dir(output, config, resume=resume)
        resumes = resume and (output / LAST).is_file()
        trainer = Trainer(config, dataset.classes, distributed, initialize=not resumes)
        distributed.barrier()  # until all processes have checked the directory
        if distributed.is_main_process:
            create_output_dir(output, config)
        if resumes:
            trainer.restore(output / LAST)
        logger = Logger()
        if distributed.is_main_process:
            logger = FileLogger(output, config, trainer.iteration, trainer.last_evaluation, console)
        with logger, StopSignal() as stop:
            TrainingLoop(trainer, batches, held_out, output, logger, stop).run()
        distributed.barrier()  # until the last file is written
    return output / FINAL


class TrainingLoop:
    """Runs a trainer to the end: the order of steps, checkpoints, evaluations and logging."""

    def __init__(
        self,
        trainer: Trainer,
        batches: TrainingBatches,
        held_out: SegmentationDataset | None,
        output: Path,
        logger: Logger,
        stop: StopSignal,
    ) -> None:
        self.trainer, self.batches, self.held_out = trainer, batches, held_out
        self.output, self.logger, self.stop = output, logger, stop
        self.layer_metrics: LayerMetricsMonitor | None = None
        if held_out is not None and trainer.config.layer_metrics_every is not None:
            self.layer_metrics = LayerMetricsMonitor(held_out, trainer)

    def run(self) -> None:
        """Train from the current step to the last."""
        trainer, every = self.trainer, self.trainer.config.checkpoint_every
        samples = prefetch(self.batches.start(trainer.iteration), trainer.distributed.device)
        self._evaluate_if_due()  # a stopped run may have missed one
        while not trainer.finished:
            self._step(samples)
            self._measure_layers_if_due()
            if trainer.distributed.any(self.stop.number is not None):
                self._stop()
            if trainer.iteration % every == 0 or trainer.finished:
                self._save(LAST)
            self._evaluate_if_due()
        self._save(LAST)
        self._save(FINAL)

    def _step(self, batches: Iterator[list[Sample]]) -> None:
        trainer, positions = self.trainer, self.batches.batch_positions
        start = time.perf_counter()
        samples = next(batches)
        self.logger.add_data_time(time.perf_counter() - start)
        lr = trainer.optimizer.param_groups[-1]["lr"]  # of this step
        try:
            losses, norm = trainer.step(samples, positions)
        except NonFiniteError as error:
            raise dump_failed_step(trainer, samples, positions, error, self.output) from None
        except torch.OutOfMemoryError as error:
            largest = max(sample.image.shape[-2:].numel() for sample in samples)
            raise TrainingError(
                f"step {trainer.iteration}: out of memory with {len(samples)} images of up to "
                f"{largest:,} pixels ({error}); set gradient_accumulation_steps or "
                "precision=bf16, or lower data.batch_size, and continue with --resume"
            ) from None
        self.logger.update_progress(trainer.iteration)
        if trainer.iteration % trainer.config.log_every == 0 or trainer.finished:
            values = trainer.distributed.mean(losses)
            self.logger.log_step(trainer.iteration - 1, values, lr=lr, grad_norm=norm.item())

    def _measure_layers_if_due(self) -> None:
        trainer, every = self.trainer, self.trainer.config.layer_metrics_every
        if self.layer_metrics and every is not None and trainer.iteration % every == 0:
            values = self.layer_metrics.measure(trainer)
            self.logger.log_layer_metrics(trainer.iteration - 1, values)

    def _evaluate_if_due(self) -> None:
        trainer, every = self.trainer, self.trainer.config.evaluate_every
        if self.held_out is None or every is None or trainer.last_evaluation == trainer.iteration:
            return
        if trainer.iteration % every and not trainer.finished:
            return
        found = validate(trainer, self.held_out, self._update_evaluation)
        if found is None:
            self._stop()
        scores, primary_metric = found
        trainer.last_evaluation = trainer.iteration
        if trainer.update_best(scores[primary_metric]):
            self._save(BEST)
        self.logger.log_evaluation(trainer.iteration - 1, scores)

    def _update_evaluation(self, done: int, total: int) -> bool:
        self.logger.update_evaluation(done, total)
        return self.stop.number is None

    def _stop(self) -> NoReturn:
        self._save(LAST)
        total = self.trainer.config.schedule.iterations
        raise StoppedBySignalError(
            f"stopped after step {self.trainer.iteration} of {total}; continue with --resume",
            self.stop.number or signal.SIGTERM,
        )

    def _save(self, name: str) -> None:
        if self.trainer.distributed.is_main_process:
            self.trainer.save(self.output / name)


def _held_out(config: TrainConfig, dataset: SegmentationDataset) -> SegmentationDataset | None:
    """Return the images for evaluation and layer metrics; None if both are off."""
    if config.evaluate_every is None and config.layer_metrics_every is None:
        return None
    held_out = load_held_out(config.data)
    for index, (train, val) in enumerate(zip_longest(dataset.classes, held_out.classes)):
        if train != val:
            raise DataError(
                f"{held_out.describe()['annotation_file']}: class {index} is {val and val.name}, "
                f"but {train and train.name} in the training images; give files with the same "
                "categories"
            )
    return held_out


def resolve(config: TrainConfig, num_classes: int, num_images: int) -> TrainConfig:
    """Return the configuration with the values that follow from data set and method."""
    model = {
        "num_classes": num_classes,
        "label_embedding": config.model.label_embedding or needs_label_embedding(config),
    }
    return config.model_copy(
        update={
            "model": config.model.model_copy(update=model),
            "schedule": in_iterations(config.schedule, num_images, config.data.batch_size),
        }
    )
