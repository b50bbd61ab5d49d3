"""Reading ahead in worker processes, and infinite training batches.

Batches depend only on the seed and the step. A resumed run gets the same batches as an
uninterrupted one. The numbers of workers and processes do not change a batch: each process loads
its share of the same global batch.
"""

import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import lru_cache
from itertools import count
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ReferenceType, ref

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.sample import Sample
from mpdiag.data.transforms import Transform
from mpdiag.errors import ConfigError, DataError

# First entry of a seed sequence: order and augmentation use independent random streams.
_ORDER, _AUGMENTATION = 0, 1

K = TypeVar("K")
T = TypeVar("T")

if TYPE_CHECKING:
    _TorchDataset = Dataset[Any]
else:
    _TorchDataset = Dataset


class TrainingBatches:
    """An infinite sequence of lists of samples, one list per step.

    Args:
        dataset: the training images.
        batch_size: global batch size; this process yields batch_size / world_size samples.
        seed: seed of the order and the augmentation.
        transform: applied to each sample with its own generator.
        workers: number of DataLoader workers, at most the number of cores; 0 loads in this process.
        rank, world_size: this process yields samples rank, rank + world_size, ... of each batch.
        filter_empty: leave out images without segments.

    Raises:
        ConfigError: the batch size is not a multiple of `world_size`.
        DataError: there are no images, or one cannot be read (raised by the iterator).
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
                f"data.batch_size={batch_size} is not a multiple of the {world_size} process(es); "
                "choose a multiple"
            )
        images = [i for i in range(len(dataset)) if not filter_empty or dataset.num_objects(i)]
        if not images:
            raise DataError(
                f"{dataset.describe()['annotation_file']}: has no training images; choose another "
                "data set or split"
            )
        self.batch_positions = range(rank, batch_size, world_size)
        self.num_images = len(images)
        self._dataset, self._images = dataset, np.array(images)
        self._batch_size, self._seed = batch_size, seed
        self._transform, self._workers = transform, workers

    def start(self, step: int) -> Iterator[list[Sample]]:
        """Yield this process's samples of `step` and of all following steps."""
        return read_ahead(self._samples, count(step), self._workers)

    def _samples(self, step: int) -> list[Sample]:
        return [self._sample(step, position) for position in self.batch_positions]

    def _sample(self, step: int, position: int) -> Sample:
        epoch, index = divmod(step * self._batch_size + position, self.num_images)
        order = _permutation(self._seed, epoch, self.num_images)
        sample = self._dataset[int(self._images[order[index]])]
        if self._transform is None:
            return sample
        words = np.random.SeedSequence([_AUGMENTATION, self._seed, step, position])
        generator = torch.Generator().manual_seed(int(words.generate_state(1, np.uint64)[0]))
        return self._transform(sample, generator)


def read_ahead(read: Callable[[K], T], keys: Iterable[K], workers: int) -> Iterator[T]:
    """Return an iterator of `read(key)` in order, called by worker processes ahead of use.

    Args:
        read: reads what belongs to a key, such as the index of an image.
        keys: the keys, which the workers get by pickle. Two for each worker are taken in advance.
        workers: number of worker processes, at most the number of cores; 0 reads in this process.

    Raises:
        DataError: `read` raised it (raised by the iterator).
    """
    if workers == 0:
        return map(read, keys)
    items = _from_workers(read, keys, workers)
    # At exit Python waits for the workers, also while the traceback of an exception holds `items`.
    # They get the order to end through a queue, which Python closes with priority 10.
    Finalize(items, _close, (ref(items),), exitpriority=11)
    return items


def _close(items: "ReferenceType[Generator[Any, None, None]]") -> None:
    """Close a generator that still exists, which ends its workers."""
    if (generator := items()) is not None:
        generator.close()


def _from_workers(
    read: Callable[[K], T], keys: Iterable[K], workers: int
) -> Generator[T, None, None]:
    loader: DataLoader[T] = DataLoader(
        _Reads(read),
        batch_size=None,
        sampler=keys,
        num_workers=min(workers, os.cpu_count() or 1),
        collate_fn=_identity,
        worker_init_fn=_ignore_stop_signals,
        generator=torch.Generator(),  # by default it draws from the global generator
    )
    for item in loader:
        if isinstance(item, DataError):
            raise item
        yield item


class _Reads(_TorchDataset):
    """The item of a key is what a function returns, or the DataError that it raises."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.read(key)
        except DataError as error:
            # An exception in a worker would reach the user with the traceback of the worker.
            return error


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, length: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(length)


def _ignore_stop_signals(worker: int) -> None:
    """Ignore Ctrl-C and SIGTERM in a worker, so that the parent can finish its step.

    Workers exit when the parent closes the loader or dies.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _identity(item: T) -> T:
    return item
