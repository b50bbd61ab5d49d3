"""The processes of a training under torch.distributed, which may have measured nothing."""

from typing import TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")


def rank_and_count() -> tuple[int, int]:
    """Return the rank of this process and the number of processes; (0, 1) outside of a group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(value: Value, device: torch.device) -> list[Value]:
    """Return the picklable values of all processes by rank, in all of them.

    Objects, not tensors, are gathered, because a process without an image does not know the shapes
    of the others. `device` is that of the model, which NCCL uses.
    """
    _, count = rank_and_count()
    if count == 1:
        return [value]
    values: list[Value | None] = [None] * count
    with torch.cuda.device(device if device.type == "cuda" else -1):
        dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # all are filled


def gather_in_main(value: Value, device: torch.device) -> list[Value]:
    """Return the picklable values of all processes in the main process, nothing in the others."""
    rank, count = rank_and_count()
    if count == 1:
        return [value]
    values: list[Value | None] | None = None if rank else [None] * count
    with torch.cuda.device(device if device.type == "cuda" else -1):
        dist.gather_object(value, values)
    return values or []  # type: ignore[return-value]  # all are filled
