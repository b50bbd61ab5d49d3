"""One process or many: who we are, what all share, and when all stop.

torchrun starts the processes and tells each its place in the environment; without it there is one.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainers.methods import Batch, Census, Losses, Method

T = TypeVar("T")


@dataclass(slots=True)
class Ranks:
    """The processes of one training.

    Attributes:
        rank: number of this process, 0..world - 1.
        world: how many there are.
        device: where this one computes.
        meeting: where tensors are that all share; None: on the CPU, whose backend has to be set up
            beside the card's.
    """

    rank: int
    world: int
    device: torch.device
    meeting: torch.device | None = None

    @classmethod
    def join(cls) -> "Ranks":
        """Meet the other processes that torchrun has started, if any."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        cuda = torch.cuda.is_available()
        device = torch.device("cpu")
        if cuda:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        if world > 1 and not dist.is_initialized():
            # Both, so that objects and the stop flag pass by the host and don't wait for the card.
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
        return cls(int(os.environ.get("RANK", "0")), world, device)

    def leave(self) -> None:
        """Part from the other processes."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()

    def wrap(self, method: Method) -> "SharedMethod":
        """The method, with gradients averaged over the processes."""
        return SharedMethod(method, self)

    def mean_census(self, parts: Sequence[Census]) -> Census:
        """Sums over a step's parts, then the mean over the processes; masks and weights never 0."""
        sums = torch.tensor([astuple(part) for part in parts], dtype=torch.float64).sum(0)
        sums = sums.to(self.meeting or "cpu")
        if self.world > 1:
            dist.all_reduce(sums)
        return Census(*(max(value, 1.0) / self.world for value in sums.tolist()))

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Each value's mean over the processes; all must have the same keys."""
        stacked = torch.stack([value.detach().double() for value in values.values()]).cpu()
        if self.world > 1:
            dist.all_reduce(stacked)
        return dict(zip(values, (stacked / self.world).tolist(), strict=True))

    def gather(self, value: T) -> list[T]:
        """Every process's value, in order of rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.world == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)


class SharedMethod:
    """A method on several processes: DistributedDataParallel around it where there are several."""

    def __init__(self, method: Method, ranks: Ranks) -> None:
        self.module: nn.Module = method
        self._parallel: nn.parallel.DistributedDataParallel | None = None
        if ranks.world > 1:
            devices = [ranks.device.index] if ranks.device.type == "cuda" else None
            self._parallel = nn.parallel.DistributedDataParallel(
                method, device_ids=devices, gradient_as_bucket_view=True
            )
            self.module = self._parallel

    def __call__(self, batch: Batch, census: Census, autocast: torch.dtype | None) -> Losses:
        losses: Losses = self.module(batch, census, autocast)
        return losses

    def hold_gradients(self, hold: bool) -> AbstractContextManager[None]:
        """While a step goes on in parts, gradients stay here and are averaged with the last."""
        if hold and self._parallel is not None:
            return self._parallel.no_sync()
        return nullcontext()
