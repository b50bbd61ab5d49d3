"""Endless training batches whose content is a function of the seed and the step alone.

A resumed run starts at its step and sees the batches it would have seen; the number of workers
and of processes changes nothing, since a process takes its share of the slots of the same batch.
"""

import os
import signal
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.sample import Sample
from mpdiag.data.transforms import Transform
from mpdiag.errors import ConfigError, DataError

# First word of a seed sequence, so that order and augmentation draw from unrelated streams.
_ORDER, _AUGMENTATION = 0, 1

if TYPE_CHECKING:
    _TorchDataset = Dataset[list[Sample] | DataError]
else:
    _TorchDataset = Dataset


class TrainingBatches:
    """Lists of samples, one for each step, without end.

    batch_size    samples of one step over all processes; this one yields batch_size / world_size
    seed          of the order and of the augmentation
    transform     applied to each sample with a generator of its own; None: samples as on disk
    workers       0: read in this process; else so many torch DataLoader workers, as far as there
                  are cores
    rank, world_size   this process takes slots rank, rank + world_size, ... of every batch
    filter_empty  leave out images that are annotated with no segment

    Raises ConfigError for a batch that can't be shared out, DataError where no image is left
    or where one can't be read.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        batch_size: int,
        seed: int,
        transform: Transform | None = None,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        filter_empty: bool = False,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise ConfigError(
                f"a batch of {batch_size} can't be shared out evenly over {world_size} process(es):"
                " choose a multiple of the number of processes"
            )
        images = [i for i in range(len(dataset)) if not filter_empty or dataset.num_objects(i)]
        if not images:
            raise DataError(
                f"{dataset.describe()['annotation_file']} holds no image to train on: choose"
                " another data set or split"
            )
        self.batch_positions = range(rank, batch_size, world_size)
        self.num_images = len(images)
        self._dataset = _BatchDataset(
            dataset, np.array(images), batch_size, self.batch_positions, seed, transform
        )
        self._workers = min(workers, os.cpu_count() or 1)

    def start(self, step: int) -> Iterator[list[Sample]]:
        """This process's share of the batches of `step` and all that follow."""
        loader = DataLoader(
            self._dataset,
            batch_size=None,
            sampler=_CountingSampler(step),
            num_workers=self._workers,
            collate_fn=_identity,
            worker_init_fn=_ignore_stop_signals,
            generator=torch.Generator(),  # else the loader would draw from the global one
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch


class _BatchDataset(_TorchDataset):
    """Item `step` is this process's share of that step's batch."""

    def __init__(
        self,
        dataset: SegmentationDataset,
        images: npt.NDArray[np.int64],
        batch_size: int,
        slots: range,
        seed: int,
        transform: Transform | None,
    ) -> None:
        self.dataset = dataset
        self.images = images
        self.batch_size = batch_size
        self.batch_positions = slots
        self.seed = seed
        self.transform = transform

    def __getitem__(self, step: int) -> list[Sample] | DataError:
        try:
            return [self._sample(step, slot) for slot in self.batch_positions]
        except DataError as error:
            # Raised in a worker, it would reach the user wrapped in that worker's traceback.
            return error

    def _sample(self, step: int, slot: int) -> Sample:
        epoch, position = divmod(step * self.batch_size + slot, len(self.images))
        order = _permutation(self.seed, epoch, len(self.images))
        sample = self.dataset[int(self.images[order[position]])]
        if self.transform is None:
            return sample
        words = np.random.SeedSequence([_AUGMENTATION, self.seed, step, slot])
        generator = torch.Generator().manual_seed(int(words.generate_state(1, np.uint64)[0]))
        return self.transform(sample, generator)


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, length: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(length)


class _CountingSampler:
    """A sampler that yields start, start + 1, ... without end."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        step = self.start
        while True:
            yield step
            step += 1


def _ignore_stop_signals(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach all; the parent then finishes its step, with workers.

    They end when the parent says so, or when it is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _identity(batch: list[Sample] | DataError) -> list[Sample] | DataError:
    return batch
