from collections import Counter
from itertools import islice
from typing import Any

import pytest
import torch

from mpdiag.data import Sample, TrainingBatches
from mpdiag.errors import ConfigError, DataError

# Python 3.12 warns of the fork by which torch starts its workers.
FORK = "ignore:.*multi-threaded.*fork:DeprecationWarning"


class Numbers:
    """Image k is filled with k; odd ones have no object; image `broken` can't be read."""

    classes: list[Any] = []  # noqa: RUF012

    def __init__(self, length: int, broken: int = -1) -> None:
        self.image_ids = list(range(length))
        self.broken = broken

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Sample:
        if index == self.broken:
            raise DataError(f"image {index}.jpg can't be read: fetch it anew")
        objects = self.num_objects(index)
        image = torch.full((3, 2, 2), index, dtype=torch.uint8)
        masks = torch.ones((objects, 2, 2), dtype=torch.bool)
        return Sample(index, f"{index}.jpg", image, masks, torch.zeros(objects).long(), (2, 2))

    def num_objects(self, index: int) -> int:
        return (index + 1) % 2

    def describe(self) -> dict[str, Any]:
        return {"annotation_file": "numbers.json"}


def noise(sample: Sample, generator: torch.Generator) -> Sample:
    """A transform whose draw can be read off the sample."""
    sample.file_name = str(torch.rand((), generator=generator).item())
    return sample


def ids(batches: TrainingBatches, steps: int) -> list[list[int]]:
    return [[sample.image_id for sample in batch] for batch in islice(batches.start(0), steps)]


def draws(batches: TrainingBatches, steps: int, start: int = 0) -> list[list[tuple[int, str]]]:
    stream = islice(batches.start(start), steps)
    return [[(sample.image_id, sample.file_name) for sample in batch] for batch in stream]


def test_every_epoch_shows_every_image_once() -> None:
    seen = [i for batch in ids(TrainingBatches(Numbers(10), 4, seed=0), 15) for i in batch]
    epochs = [seen[k : k + 10] for k in range(0, 60, 10)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_a_batch_may_be_larger_than_the_data_set() -> None:
    (batch,) = ids(TrainingBatches(Numbers(3), 8, seed=0), 1)
    assert set(Counter(batch).values()) <= {2, 3}


def test_seed_decides() -> None:
    runs = [draws(TrainingBatches(Numbers(20), 4, seed, noise), 12) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    numbers = [number for batch in runs[0] for _, number in batch]
    assert len(set(numbers)) == len(numbers) == 48


@pytest.mark.parametrize("start", [1, 7, 30])
def test_resuming_goes_on_with_the_same_batches(start: int) -> None:
    whole = draws(TrainingBatches(Numbers(10), 4, 5, noise), 35)
    resumed = draws(TrainingBatches(Numbers(10), 4, 5, noise), 35 - start, start)
    assert resumed == whole[start:]


def test_processes_share_the_batch_of_one() -> None:
    alone = draws(TrainingBatches(Numbers(10), 6, 5, noise), 8)
    parts = [
        draws(TrainingBatches(Numbers(10), 6, 5, noise, rank=rank, world_size=3), 8)
        for rank in range(3)
    ]
    for step, batch in enumerate(alone):
        assert [parts[slot % 3][step][slot // 3] for slot in range(6)] == batch


@pytest.mark.filterwarnings(FORK)
def test_workers_change_nothing() -> None:
    alone = draws(TrainingBatches(Numbers(10), 4, 5, noise), 9)
    assert draws(TrainingBatches(Numbers(10), 4, 5, noise, workers=2), 9) == alone


@pytest.mark.filterwarnings(FORK)
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_one_sentence(workers: int) -> None:
    batches = TrainingBatches(Numbers(4, broken=2), 4, 0, workers=workers)
    with pytest.raises(DataError) as caught:
        next(batches.start(0))
    assert str(caught.value) == "image 2.jpg can't be read: fetch it anew"


def test_images_without_objects_stay_unless_filtered() -> None:
    assert {i for b in ids(TrainingBatches(Numbers(6), 3, 0), 4) for i in b} == set(range(6))
    filtered = TrainingBatches(Numbers(6), 3, 0, filter_empty=True)
    assert {i for b in ids(filtered, 4) for i in b} == {0, 2, 4}


def test_global_random_state_is_left_alone() -> None:
    state = torch.random.get_rng_state()
    draws(TrainingBatches(Numbers(6), 3, 0, noise), 3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_each_start_is_a_new_one() -> None:
    batches = TrainingBatches(Numbers(10), 4, seed=0)
    assert ids(batches, 3) == ids(batches, 3)


@pytest.mark.parametrize(("batch_size", "world"), [(0, 1), (3, 2)])
def test_batch_that_cannot_be_shared(batch_size: int, world: int) -> None:
    with pytest.raises(ConfigError, match=f"batch of {batch_size}"):
        TrainingBatches(Numbers(4), batch_size, 0, world_size=world)


def test_no_image_left() -> None:
    with pytest.raises(DataError, match=r"numbers\.json"):
        TrainingBatches(Numbers(0), 2, 0)
