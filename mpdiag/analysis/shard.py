"""One process or several over one run: which images are whose, and what only the first does."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

_PATIENCE = timedelta(days=7)  # one process may have much more to do than another


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of a run that this process does: every `world`-th block of images, from `rank` on.

    By itself it is the whole run, whatever other processes there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process starts and finishes the run directory."""
        return self.rank == 0

    def blocks(self, total: int, size: int) -> list[range]:
        """This process's blocks of `size` images each (the last may have fewer) of `total`."""
        starts = range(self.rank * size, total, self.world * size)
        return [range(start, min(start + size, total)) for start in starts]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()

    def lead(self, action: Callable[[], T]) -> T:
        """What `action` gives in the first process, in all; it must pickle.

        Where it raises, the first process raises that and the others end quietly.
        """
        if self.world == 1:
            return action()
        outcome: list[Any] = [None, False]
        try:
            if self.first:
                outcome = [action(), True]
        finally:
            dist.broadcast_object_list(outcome)
        if not outcome[1]:
            raise SystemExit(2)
        value: T = outcome[0]
        return value


@contextmanager
def torchrun_shard() -> Iterator[Shard]:
    """The shard of a process that torchrun started (the whole run without it), one GPU for each."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if world == 1:
        yield Shard()
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Shard(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
