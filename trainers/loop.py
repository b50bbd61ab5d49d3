"""The training loop: batches to the trainer, now and then a checkpoint, an evaluation, a line."""

import signal
import time
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from rich.console import Console

from mpdiag.config import TrainConfig
from mpdiag.data import (
    KNOWN_DATASETS,
    Sample,
    SegmentationDataset,
    TrainingBatches,
    augmentation,
    load_dataset,
)
from mpdiag.errors import ConfigError, DataError, NonFiniteError
from trainers.diagnosis import Diagnosis
from trainers.interrupt import StoppedBySignalError, StopRequest
from trainers.journal import FileJournal, Journal
from trainers.methods import needs_label_embedding
from trainers.optimizer import resolved
from trainers.output import BEST, FINAL, LAST, check_free, claim
from trainers.ranks import Ranks
from trainers.trainer import Trainer
from trainers.trouble import report
from trainers.validation import validate


def train(
    config: TrainConfig, output: Path, *, resume: bool = False, console: Console | None = None
) -> Path:
    """Train as `config` says and return the path of `model_final.pth`.

    Under torchrun, this is one of several processes that train together.

    Args:
        config: the recipe; the number of classes and the class embeddings of the MP part follow
            from data set and method.
        output: directory for checkpoints and logs; must be empty, or with `resume` hold this run.
        resume: go on from `last.pth`.
        console: where the progress bar goes.

    Raises:
        RunError: `output` holds something else.
        ConfigError, DataError, CheckpointError: the recipe, its data set or its start is wrong.
        TrainingError: a loss or a cost is not finite; a dump in `output` reproduces it.
        StoppedBySignalError: SIGTERM or Ctrl-C; `last.pth` has the step at which it stopped.
    """
    ranks = Ranks.join()
    try:
        return _train(config, output, resume, console or Console(stderr=True), ranks)
    finally:
        ranks.leave()


def _train(config: TrainConfig, output: Path, resume: bool, console: Console, ranks: Ranks) -> Path:
    needs_label_embedding(config)  # an unknown method is an error before anything is read
    data = config.data
    dataset = load_dataset(data.dataset, root=data.root, split=data.train_split, task=data.task)
    held_out = _held_out(config, dataset)
    batches = TrainingBatches(
        dataset,
        config.data.batch_size,
        config.seed,
        transform=augmentation(config.data),
        workers=config.data.workers,
        rank=ranks.rank,
        world=ranks.world,
        filter_empty=True,
    )
    config = fit(config, len(dataset.classes), batches.num_images)
    check_free(output, config, resume=resume)
    trainer = Trainer(config, dataset.classes, ranks)
    ranks.wait()  # until all have looked at the directory
    if ranks.first:
        claim(output, config)
    if resume and (output / LAST).is_file():
        trainer.restore(output / LAST)
    journal = Journal()
    if ranks.first:
        journal = FileJournal(output, config, trainer.done, trainer.evaluated, console)
    with journal, StopRequest() as stop:
        _Loop(trainer, batches, held_out, output, journal, stop).run()
    ranks.wait()  # until the last file is written
    return output / FINAL


class _Loop:
    """A training on its way: what it consists of, and the order in which things happen."""

    def __init__(
        self,
        trainer: Trainer,
        batches: TrainingBatches,
        held_out: SegmentationDataset | None,
        output: Path,
        journal: Journal,
        stop: StopRequest,
    ) -> None:
        self.trainer, self.batches, self.held_out = trainer, batches, held_out
        self.output, self.journal, self.stop = output, journal, stop
        self.diagnosis: Diagnosis | None = None
        if held_out is not None and trainer.config.diagnose_every is not None:
            self.diagnosis = Diagnosis(held_out, trainer)

    def run(self) -> None:
        """From the current step to the end."""
        trainer, config = self.trainer, self.trainer.config
        total = config.schedule.iterations
        stream = self.batches.start(trainer.done)
        self._evaluate_if_due()  # a stopped run may owe one
        while trainer.done < total:
            self._step(stream)
            self._diagnose_if_due()
            stopping = self.trainer.ranks.any(self.stop.number is not None)
            if stopping:
                self._leave()
            if trainer.done % config.checkpoint_every == 0 or trainer.done == total:
                self._save(LAST)
            self._evaluate_if_due()
        self._save(LAST)
        self._save(FINAL)

    def _step(self, stream: Iterator[list[Sample]]) -> None:
        trainer = self.trainer
        since = time.perf_counter()
        samples = next(stream)
        self.journal.waited(time.perf_counter() - since)
        try:
            losses, norm = trainer.step(samples, self.batches.slots)
        except NonFiniteError as error:
            raise report(trainer, samples, self.batches.slots, error, self.output) from None
        self.journal.step(trainer.done)
        if trainer.done % trainer.config.log_every == 0 or trainer.last:
            values = trainer.ranks.mean(losses)
            rate = trainer.optimizer.param_groups[-1]["lr"]
            self.journal.log(trainer.done - 1, values, lr=rate, grad_norm=norm.item())

    def _diagnose_if_due(self) -> None:
        trainer, every = self.trainer, self.trainer.config.diagnose_every
        if self.diagnosis is not None and every is not None and trainer.done % every == 0:
            self.journal.diagnosed(trainer.done - 1, self.diagnosis.measure(trainer))

    def _evaluate_if_due(self) -> None:
        trainer, every = self.trainer, self.trainer.config.evaluate_every
        if self.held_out is None or every is None or trainer.evaluated == trainer.done:
            return
        if trainer.done % every and not trainer.last:
            return
        scores, headline = validate(trainer, self.held_out, self._evaluating)
        trainer.evaluated = trainer.done
        if trainer.is_best(scores[headline]):
            self._save(BEST)
        self.journal.evaluated(trainer.done - 1, scores)

    def _evaluating(self, done: int, total: int) -> None:
        self.journal.evaluating(done, total)
        if self.stop.number is not None:
            self._leave()

    def _leave(self) -> None:
        self._save(LAST)
        total = self.trainer.config.schedule.iterations
        raise StoppedBySignalError(
            f"stopped after step {self.trainer.done} of {total}; go on with --resume",
            self.stop.number or signal.SIGTERM,
        )

    def _save(self, name: str) -> None:
        if self.trainer.ranks.first:
            self.trainer.save(self.output / name)


def _held_out(config: TrainConfig, dataset: SegmentationDataset) -> SegmentationDataset | None:
    """What the model is evaluated and diagnosed on; None where neither is asked for."""
    if config.evaluate_every is None and config.diagnose_every is None:
        return None
    data = config.data
    name = data.val_dataset or data.dataset
    # One of detectron2's names is one split, as a file is.
    if data.val_dataset is None and not (name in KNOWN_DATASETS or Path(name).is_dir()):
        raise ConfigError(
            f"data.dataset = {name}: it has no held-out images; give data.val_dataset=FILE or "
            "NAME, or evaluate_every=null diagnose_every=null"
        )
    held_out = load_dataset(name, root=data.root, split=data.val_split, task=data.task)
    for index, (ours, theirs) in enumerate(zip_longest(dataset.classes, held_out.classes)):
        if ours != theirs:
            raise DataError(
                f"{held_out.describe()['annotation_file']}: its class {index} is "
                f"{theirs and theirs.name}, that of the training images {ours and ours.name}; "
                "give files of the same categories"
            )
    return held_out


def fit(config: TrainConfig, num_classes: int, num_images: int) -> TrainConfig:
    """The recipe with what data set and method decide about model and schedule."""
    decided = {
        "num_classes": num_classes,
        "label_embedding": config.model.label_embedding or needs_label_embedding(config),
    }
    return config.model_copy(
        update={
            "model": config.model.model_copy(update=decided),
            "schedule": resolved(config.schedule, num_images, config.data.batch_size),
        }
    )
