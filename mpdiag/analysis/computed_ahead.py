"""Compute the next item in a thread while the caller uses one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

T = TypeVar("T")


@contextmanager
def computed_ahead(items: Iterator[T], device: torch.device) -> Iterator[Iterator[T]]:
    """Give the items in order, computed one ahead; at most two are in memory.

    Operators of PyTorch, C++ functions and waits for a GPU let other threads run. The first item is
    computed by the caller, because workers of a DataLoader must start before any thread does.

    Args:
        items: computes the items.
        device: if it is a GPU, the thread uses the current one of the caller.
    """
    choose_gpu = None
    if device.type == "cuda":
        choose_gpu = partial(torch.cuda.set_device, torch.cuda.current_device())
    with ThreadPoolExecutor(1, "ahead", choose_gpu) as pool:
        yield _results(items, pool)


def _results(items: Iterator[T], pool: ThreadPoolExecutor) -> Iterator[T]:
    end = object()
    item = next(items, end)
    while item is not end:
        following = pool.submit(next, items, end)
        yield item  # type: ignore[misc]
        item = following.result()
