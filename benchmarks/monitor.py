"""`mpdiag bench monitor`: time and memory that LayerMonitor adds to a training."""

import gc
import resource
from dataclasses import dataclass
from pathlib import Path

import rich.box
import torch
from rich.table import Table

import mpdiag
from benchmarks.memory import TINY
from benchmarks.timing import time_interleaved
from mpdiag.config import ModelConfig
from mpdiag.losses import ImportanceSampler, set_losses
from mpdiag.matching import Target, match
from mpdiag.models import Mask2Former

OBJECTS = 8  # per image, as in COCO


@dataclass(frozen=True, slots=True)
class MonitorCost:
    """Cost of a monitor.

    Attributes:
        step: median seconds of a training step without a monitor.
        idle: the same with a monitor between its measurements.
        measured: median seconds of a measured step.
        every: steps from one measurement to the next.
        steps: number of measured steps of the memory test.
        memory: bytes of the process's memory after a tenth of them, and at the end.
        memory_without: the same without a monitor.
    """

    step: float
    idle: float
    measured: float
    every: int
    steps: int
    memory: tuple[int, int]
    memory_without: tuple[int, int]

    @property
    def overhead(self) -> float:
        """Share of the training time that measurements add."""
        return (self.measured - self.step) / (self.every * self.step)


def bench_monitor(
    model: ModelConfig,
    size: tuple[int, int],
    *,
    batch: int,
    every: int,
    repeats: int,
    memory_steps: int,
    device: torch.device,
) -> MonitorCost:
    """Time training steps with and without a monitor in turn, and watch the memory.

    Args:
        model: the model that is timed. The memory test uses a small one.
        size: height and width of the images.
        batch: images per step.
        every: steps from one measurement to the next.
        repeats: timed steps of each kind.
        memory_steps: measured steps of the memory test.
        device: device of the training.
    """
    functions = {
        name: _Training(model, size, batch, device, period).step
        for name, period in (("step", None), ("idle", 10**9), ("measured", 1))
    }
    seconds = time_interleaved(functions, repeats, device)
    functions.clear()
    memory = {period: _memory(memory_steps, period, device) for period in (1, None)}
    return MonitorCost(
        **seconds, every=every, steps=memory_steps, memory=memory[1], memory_without=memory[None]
    )


class _Training:
    """A training on random images; `period` is that of its monitor, None for none."""

    def __init__(
        self,
        config: ModelConfig,
        size: tuple[int, int],
        batch: int,
        device: torch.device,
        period: int | None,
    ) -> None:
        torch.manual_seed(0)
        self._model = Mask2Former(config).to(device).train()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), 1e-5)
        self._monitor = None if period is None else mpdiag.LayerMonitor(self._model, every=period)
        self._images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in range(batch)]
        self._images = [image.to(device) for image in self._images]
        self._targets = [_random_target(size, config.num_classes, device) for _ in range(batch)]
        self._device = device

    def step(self) -> None:
        autocast = torch.autocast("cuda", torch.bfloat16, enabled=self._device.type == "cuda")
        with autocast:
            found = self._model(self._images).matching
        generators = [torch.Generator(self._device) for _ in self._images]
        sampler = ImportanceSampler(generators)
        predictions = found.class_logits, found.mask_logits.float()
        assignment = match(*predictions, self._targets, points=torch.rand(12544, 2))
        count = len(self._images) * OBJECTS
        losses = set_losses(*predictions, self._targets, assignment, sampler, num_masks=count)
        (2 * losses.class_ + 5 * losses.mask + 5 * losses.dice).sum().backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._monitor is not None:
            self._monitor.step(self._targets)


def _random_target(size: tuple[int, int], classes: int, device: torch.device) -> Target:
    """Return GT of random boxes, in an image whose sides are multiples of 32."""
    masks = torch.zeros(OBJECTS, *size, dtype=torch.bool)
    for mask in masks:
        y, x = (int(torch.randint(0, side // 2, ())) for side in size)
        mask[y : y + size[0] // 2, x : x + size[1] // 2] = True
    labels = torch.randint(0, classes, (OBJECTS,))
    return Target(labels=labels.to(device), masks=masks.to(device))


def _memory(steps: int, period: int | None, device: torch.device) -> tuple[int, int]:
    """Return the memory in use after a tenth of the steps, and after all."""
    training = _Training(TINY, (64, 64), 1, device, period)
    used = []
    for count in (max(steps // 10, 1), steps - max(steps // 10, 1)):
        for _ in range(count):
            training.step()
        gc.collect()
        used.append(_in_use(device))
    return used[0], used[1]


def _in_use(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def monitor_table(cost: MonitorCost) -> Table:
    """Return a table of the results."""
    table = Table("", "with a monitor", "without", box=rich.box.SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("step between measurements, s", f"{cost.idle:.4g}", f"{cost.step:.4g}")
    table.add_row("measured step, s", f"{cost.measured:.4g}", f"{cost.step:.4g}")
    table.add_row(f"overhead, every {cost.every} steps", f"{100 * cost.overhead:.2f}%", "")
    growth = [(b - a) / 2**20 for a, b in (cost.memory, cost.memory_without)]
    label = f"growth of memory over {cost.steps} measured steps, MiB"
    table.add_row(label, *(f"{value:.1f}" for value in growth))
    return table
