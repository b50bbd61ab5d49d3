"""Times of several functions that can be compared, and the bandwidth of a device."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

COPIED = 2**28  # bytes


def interleaved(
    functions: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of each function. They take turns, so that a disturbance hits all alike.

    Each is called once before, untimed.

    Args:
        functions: by name, without arguments.
        repeats: how many rounds are timed.
        device: where they run; a GPU is waited for before and after each call.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            _wait(device)
            started = time.perf_counter()
            function()
            _wait(device)
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def copy_bandwidth(device: torch.device, repeats: int = 10) -> float:
    """Bytes per second that a copy within the device's memory reads and writes."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = interleaved({"copy": lambda: target.copy_(source)}, repeats, device)
    return 2 * COPIED / seconds["copy"]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
