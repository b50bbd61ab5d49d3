"""The model runs one batch ahead in a thread."""

import threading
from collections.abc import Iterator

import pytest
import torch

from mpdiag.analysis.computed_ahead import computed_ahead

CPU = torch.device("cpu")


def test_next_item_is_computed_while_one_is_used() -> None:
    """Each side waits for the other, which would hang if they ran in turn."""
    computed, used = [threading.Event() for _ in range(4)], [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number in range(4):
            if number:
                assert used[number - 1].wait(10)  # the caller has the item before
            computed[number].set()
            yield number

    found = []
    with computed_ahead(items(), CPU) as results:
        for number in results:
            used[number].set()
            if number < 3:
                assert computed[number + 1].wait(10)
            if number < 2:
                assert not computed[number + 2].is_set()  # not two ahead
            found.append(number)
    assert found == [0, 1, 2, 3]


def test_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("third")

    found = []
    with computed_ahead(items(), CPU) as results, pytest.raises(ValueError, match="third"):
        found.extend(results)
    assert found == [1, 2]


def test_no_thread_is_left_when_the_caller_stops() -> None:
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), computed_ahead(iter(range(5)), CPU) as results:
        assert next(results) == 0
        raise KeyboardInterrupt
    assert threading.active_count() == before


def test_no_items() -> None:
    with computed_ahead(iter(()), CPU) as results:
        assert list(results) == []
