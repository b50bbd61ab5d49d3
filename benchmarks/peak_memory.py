"""Peak memory of a job in a fresh process.

On a GPU the peak is that of torch's allocator, on a CPU the largest resident set size.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from mpdiag.allocator import keep_freed_memory
from mpdiag.errors import DependencyError

Job = Callable[[], Callable[[], object]]


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """Memory in bytes before a job, and its peak during the job."""

    job: str
    device: str
    before: int
    peak: int


def measure_peak(name: str, job: Job) -> PeakMemory:
    """Run a job in a fresh process with the same number of threads.

    Args:
        name: name of the job.
        job: a module-level function, or a `partial` of one, that returns the function to measure.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure, name, job, torch.get_num_threads()).result()


def _measure(name: str, job: Job, threads: int) -> PeakMemory:
    keep_freed_memory()  # as all commands do
    torch.set_num_threads(threads)
    return measure_in_process(name, job)


def measure_in_process(name: str, job: Job) -> PeakMemory:
    """Run a job in this process; on a CPU, memory that was freed before hides a part of the peak.

    Raises:
        DependencyError: there is neither a GPU nor /proc.
    """
    run = job()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        device = torch.cuda.get_device_name()
        return PeakMemory(name, device, before, torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if not status.is_file():
        raise DependencyError("bench memory needs /proc/self/status; run it on Linux or with a GPU")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status_bytes(status, "VmRSS")
    run()
    return PeakMemory(name, "CPU", before, _status_bytes(status, "VmHWM"))


def _status_bytes(status: Path, key: str) -> int:
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[key].split()[0]) * 1024
