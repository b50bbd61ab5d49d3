"""Timing of several functions in turn, and the memory bandwidth of a device."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

COPY_SIZE = 2**28  # bytes


def time_interleaved(
    functions: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, float]:
    """Return the median seconds of each function; they run in turn after one untimed call each.

    Running in turn exposes all functions to the same load of the machine.

    Args:
        functions: functions without arguments by name.
        repeats: number of timed rounds.
        device: device to synchronise before and after each call.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            _synchronize(device)
            started = time.perf_counter()
            function()
            _synchronize(device)
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def copy_bandwidth(device: torch.device, repeats: int = 10) -> float:
    """Return the bytes per second that a copy in the device's memory reads and writes."""
    source = torch.zeros(COPY_SIZE, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = time_interleaved({"copy": lambda: target.copy_(source)}, repeats, device)
    return 2 * COPY_SIZE / seconds["copy"]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
