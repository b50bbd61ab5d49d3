"""Batches of images at inference."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import TypeVar

import torch

T = TypeVar("T")

# Maximum number of pixels of a batch by device type: larger batches are not faster.
_MAX_PIXELS = {"cpu": 2**20, "cuda": 2**23}


def batches_by_size(
    items: Iterable[T], size_of: Callable[[T], tuple[int, int]], device: torch.device
) -> Iterator[tuple[tuple[int, int], list[T]]]:
    """Yield batches of consecutive items with the same padded size, and that size.

    Padding changes predictions, so images of different padded sizes do not share a batch.

    Args:
        items: images in the order of the results.
        size_of: returns the padded (height, width) of an item.
        device: device of the model. A batch has as many pixels as it runs fast, but at least one
            image.
    """
    for size, group in groupby(items, key=size_of):
        count = max(_MAX_PIXELS[device.type] // (size[0] * size[1]), 1)
        while batch := list(islice(group, count)):
            yield size, batch
