"""Share of a process in a run that one or several processes write."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from mpdiag import torchrun

T = TypeVar("T")

_TIMEOUT = timedelta(days=7)  # one process may have much more to do than another


@dataclass(frozen=True, slots=True)
class Shard:
    """Share of a process: every `world_size`-th block of images, starting with block `rank`.

    The default is the whole run.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this process starts and finishes the run directory."""
        return self.rank == 0

    def blocks(self, total: int, size: int) -> list[range]:
        """Return the blocks of this process: `size` images each, of `total` images."""
        starts = range(self.rank * size, total, self.world_size * size)
        return [range(start, min(start + size, total)) for start in starts]

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()

    def gather(self, value: T) -> list[T]:
        """Return the picklable values of all processes by rank, on each of them."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def run_on_main_process(self, action: Callable[[], T]) -> T:
        """Call `action` on the main process only, and return its picklable result on all.

        If it raises, the main process raises the error and the others exit with code 2.
        """
        if self.world_size == 1:
            return action()
        outcome: list[Any] = [None, False]
        try:
            if self.is_main_process:
                outcome = [action(), True]
        finally:
            dist.broadcast_object_list(outcome)
        if not outcome[1]:
            raise SystemExit(2)
        value: T = outcome[0]
        return value


@contextmanager
def torchrun_shard() -> Iterator[Shard]:
    """Initialize the process group of torchrun and yield the shard of this process.

    Each process uses the GPU of its local rank. Without torchrun, yield the whole run.
    """
    world_size = torchrun.world_size()
    if torch.cuda.is_available():
        torch.cuda.set_device(torchrun.local_gpu(torch.cuda.device_count()))
    if world_size == 1:
        yield Shard()
        return
    dist.init_process_group("gloo", timeout=_TIMEOUT)
    try:
        yield Shard(dist.get_rank(), world_size)
    finally:
        dist.destroy_process_group()
