import signal
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from mpdiag.data import Sample, TrainingBatches
from mpdiag.errors import ConfigError, DataError

from ...processes import Forked
from .held_reader import end_with_a_reader

# Python 3.12 warns about the fork with which torch starts workers.
FORK = "ignore:.*multi-threaded.*fork:DeprecationWarning"


class NumberedImages:
    """Image k has value k; odd images have no object; image `broken` cannot be read."""

    classes: list[Any] = []  # noqa: RUF012

    def __init__(self, length: int, broken: int = -1) -> None:
        self.image_ids = list(range(length))
        self.broken = broken

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Sample:
        if index == self.broken:
            raise DataError(f"{index}.jpg: image cannot be read; download it again")
        objects = self.num_objects(index)
        image = torch.full((3, 2, 2), index, dtype=torch.uint8)
        masks = torch.ones((objects, 2, 2), dtype=torch.bool)
        return Sample(index, f"{index}.jpg", image, masks, torch.zeros(objects).long(), (2, 2))

    def num_objects(self, index: int) -> int:
        return (index + 1) % 2

    def describe(self) -> dict[str, Any]:
        return {"annotation_file": "numbers.json"}


def noise(sample: Sample, generator: torch.Generator) -> Sample:
    """A transform that stores its random value in the sample."""
    sample.file_name = str(torch.rand((), generator=generator).item())
    return sample


def ids(batches: TrainingBatches, steps: int) -> list[list[int]]:
    return [[sample.image_id for sample in batch] for batch in islice(batches.start(0), steps)]


def draws(batches: TrainingBatches, steps: int, start: int = 0) -> list[list[tuple[int, str]]]:
    stream = islice(batches.start(start), steps)
    return [[(sample.image_id, sample.file_name) for sample in batch] for batch in stream]


def test_every_epoch_has_every_image_once() -> None:
    seen = [i for batch in ids(TrainingBatches(NumberedImages(10), 4, seed=0), 15) for i in batch]
    epochs = [seen[k : k + 10] for k in range(0, 60, 10)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_batch_larger_than_the_data_set() -> None:
    (batch,) = ids(TrainingBatches(NumberedImages(3), 8, seed=0), 1)
    assert set(Counter(batch).values()) <= {2, 3}


def test_seed_determines_the_batches() -> None:
    runs = [draws(TrainingBatches(NumberedImages(20), 4, seed, noise), 12) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    numbers = [number for batch in runs[0] for _, number in batch]
    assert len(set(numbers)) == len(numbers) == 48


@pytest.mark.parametrize("start", [1, 7, 30])
def test_resuming_continues_with_the_same_batches(start: int) -> None:
    whole = draws(TrainingBatches(NumberedImages(10), 4, 5, noise), 35)
    resumed = draws(TrainingBatches(NumberedImages(10), 4, 5, noise), 35 - start, start)
    assert resumed == whole[start:]


def test_processes_split_the_global_batch() -> None:
    alone = draws(TrainingBatches(NumberedImages(10), 6, 5, noise), 8)
    parts = [
        draws(TrainingBatches(NumberedImages(10), 6, 5, noise, rank=rank, world_size=3), 8)
        for rank in range(3)
    ]
    for step, batch in enumerate(alone):
        assert [parts[slot % 3][step][slot // 3] for slot in range(6)] == batch


@pytest.mark.filterwarnings(FORK)
def test_workers_do_not_change_batches() -> None:
    alone = draws(TrainingBatches(NumberedImages(10), 4, 5, noise), 9)
    assert draws(TrainingBatches(NumberedImages(10), 4, 5, noise, workers=2), 9) == alone


@pytest.mark.filterwarnings(FORK)
@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_raises_data_error(workers: int) -> None:
    batches = TrainingBatches(NumberedImages(4, broken=2), 4, 0, workers=workers)
    with pytest.raises(DataError) as caught:
        next(batches.start(0))
    assert str(caught.value) == "2.jpg: image cannot be read; download it again"


def test_a_process_ends_while_something_holds_its_reader(tmp_path: Path) -> None:
    """Python waits for the workers, which ignore its SIGTERM."""
    process = Forked(tmp_path, end_with_a_reader)
    try:
        assert process.wait(60) == 0, process.err
    finally:
        process.signal(signal.SIGKILL)


def test_filter_empty() -> None:
    assert {i for b in ids(TrainingBatches(NumberedImages(6), 3, 0), 4) for i in b} == set(range(6))
    filtered = TrainingBatches(NumberedImages(6), 3, 0, filter_empty=True)
    assert {i for b in ids(filtered, 4) for i in b} == {0, 2, 4}


def test_global_random_state_is_unchanged() -> None:
    state = torch.random.get_rng_state()
    draws(TrainingBatches(NumberedImages(6), 3, 0, noise), 3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_start_can_be_called_repeatedly() -> None:
    batches = TrainingBatches(NumberedImages(10), 4, seed=0)
    assert ids(batches, 3) == ids(batches, 3)


@pytest.mark.parametrize(("batch_size", "world"), [(0, 1), (3, 2)])
def test_batch_size_not_a_multiple_of_world_size(batch_size: int, world: int) -> None:
    with pytest.raises(ConfigError, match=f"batch_size={batch_size}"):
        TrainingBatches(NumberedImages(4), batch_size, 0, world_size=world)


def test_no_training_images() -> None:
    with pytest.raises(DataError, match=r"numbers\.json"):
        TrainingBatches(NumberedImages(0), 2, 0)
