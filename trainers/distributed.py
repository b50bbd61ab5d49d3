"""Distributed training: process group and collectives.

torchrun starts the processes and sets their environment variables. Without torchrun there is one
process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mpdiag import torchrun
from trainers.methods import LossNormalizers

T = TypeVar("T")


@dataclass(slots=True)
class DistributedContext:
    """The processes of one training.

    Attributes:
        rank: rank of this process, 0..world_size - 1.
        world_size: number of processes.
        device: device of this process.
    """

    rank: int
    world_size: int
    device: torch.device

    @classmethod
    def initialize(cls) -> "DistributedContext":
        """Initialize the process group that torchrun describes, if any."""
        world_size = torchrun.world_size()
        cuda = torch.cuda.is_available()
        device = torch.device("cpu")
        if cuda:
            device = torch.device("cuda", torchrun.local_gpu(torch.cuda.device_count()))
            torch.cuda.set_device(device)
        if world_size > 1 and not dist.is_initialized():
            # With gloo beside nccl, objects and the stop flag don't wait for the GPU.
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
        return cls(torchrun.rank(), world_size, device)

    def shutdown(self) -> None:
        """Destroy the process group."""
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Return each value's mean over the processes; all must have the same keys."""
        stacked = torch.stack([value.detach().double() for value in values.values()]).cpu()
        if self.world_size > 1:
            dist.all_reduce(stacked)
        return dict(zip(values, (stacked / self.world_size).tolist(), strict=True))

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all processes by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes by rank on the main process, else an empty list."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_main_process else None
        dist.gather_object(value, values)
        return values or []

    def broadcast(self, value: T | None) -> T:
        """Return the main process's value on all processes."""
        values: list[Any] = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(values)
        found: T = values[0]
        return found

    def any(self, flag: bool) -> bool:
        """Return whether the flag of any process is set."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)


def mean_normalizers(
    parts: Sequence[LossNormalizers], world_size: int, device: torch.device | str = "cpu"
) -> LossNormalizers:
    """Return sums over a step's parts, averaged over the processes; at least 1 in total.

    Args:
        parts: sums of each part.
        world_size: number of processes.
        device: one of the backend. The CPU needs its own backend beside that of the GPU.
    """
    names = list(parts[0])
    values = [[part[name] for name in names] for part in parts]
    sums = torch.tensor(values, dtype=torch.float64).sum(0).to(device)
    if world_size > 1:
        dist.all_reduce(sums)
    means = (max(value, 1.0) / world_size for value in sums.tolist())
    return dict(zip(names, means, strict=True))
