import numpy as np
import pytest

from mpdiag import rle


def test_rle_by_hand() -> None:
    # In column-major order 0 1 1 1: one 0, then three 1s. A small count is its digit.
    mask = np.array([[False, True], [True, True]])
    assert rle.encode(mask) == b"13"


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (24, 32), (7, 3)])
def test_round_trip(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    for mask in (generator.random(shape) > 0.5, np.zeros(shape, bool), np.ones(shape, bool)):
        decoded = rle.decode(rle.encode(mask), *shape)
        assert decoded.dtype == np.bool_
        np.testing.assert_array_equal(decoded, mask)


def test_counts_of_another_size_are_an_error() -> None:
    counts = rle.encode(np.ones((9, 9), dtype=np.bool_))
    with pytest.raises(ValueError):
        rle.decode(counts, 2, 2)


def test_longest_counts() -> None:
    """Counts have at most one byte more than the mask has cells; `decode` refuses longer ones."""
    generator = np.random.default_rng(0)
    masks = [np.arange(64) % 2 == 0, np.arange(64) % 2 == 1]
    for low, high in ((1, 3), (14, 19), (1, 40), (500, 530)):
        runs = generator.choice([low, high - 1, generator.integers(low, high)], 64)
        masks.append(np.repeat(np.arange(64) % 2 == 0, runs))
    for mask in masks:
        counts = rle.encode(mask[None])
        assert len(counts) <= mask.size + 1
        np.testing.assert_array_equal(rle.decode(counts, 1, mask.size), mask[None])
    assert len(rle.encode(masks[0][None])) == 65
    with pytest.raises(ValueError, match="too long for 1 x 64"):
        rle.decode(b"0" * 66, 1, 64)
