"""Count what makes the CPU wait for the GPU, by PyTorch's profiler and its warnings."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
CHECKOUT = Path(__file__).resolve().parents[1]


def count_waits(run: Callable[[], object]) -> dict[str, Any]:
    """Return how often a function makes the CPU wait, and where.

    Returns:
        `calls`: number of calls of each synchronising function of CUDA; empty on a CPU.
        `lines`: number of waits by the line of Python that caused them.
    """
    run()  # allocates memory and loads kernels
    supported = torch.profiler.supported_activities() & {ProfilerActivity.CUDA}
    calls: dict[str, int] = {}
    if supported:
        torch.cuda.synchronize()
        with profile(activities=supported) as recorded:
            run()
        calls = {e.key: e.count for e in recorded.key_averages() if e.key.startswith(WAITS)}
    lines: Counter[str] = Counter()
    with _sync_warnings() as caught:
        run()
    for warning in caught:
        if "called a synchronizing" in str(warning.message):
            path = Path(warning.filename)
            name = path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path.name
            lines[f"{name}:{warning.lineno}"] += 1
    return {"calls": calls, "lines": dict(lines.most_common())}


@contextmanager
def _sync_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Collect the warnings of synchronising operators; the profiler's last wait is no such."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode("default")
