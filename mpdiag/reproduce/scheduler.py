"""Run chains of jobs side by side, each in a slot of the machine.

One loop over `Popen.poll` does it: a thread pool would need locks and an event to stop its jobs.
"""

import math
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from mpdiag.errors import TrainingError
from mpdiag.reproduce.directory import Job, ReproductionDirectory
from mpdiag.reproduce.experiments import ReproductionSize
from trainers.signals import StoppedBySignalError, StopSignal

CORES_PER_TRAINING = 2  # at least, on a machine with GPUs
_CPUINFO = Path("/proc/cpuinfo")
_SAFE_PATH = {"PYTHONSAFEPATH": "1"}  # import no module from the current directory
_POLL_SECONDS = 0.2
_PROGRESS_SECONDS = 5

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that trains.

    Attributes:
        slots: environment variables of each concurrent training.
        processes_per_training: number of processes that torchrun starts.
        description: processors and GPUs.
    """

    slots: tuple[dict[str, str], ...]
    processes_per_training: int
    description: str

    def __str__(self) -> str:
        count = len(self.slots)
        return f"{self.description}, {count} {'training' if count == 1 else 'trainings'} at a time"


def plan_machine(size: ReproductionSize, jobs: int | None) -> Machine:
    """Return how trainings of this size share the machine.

    On a CPU one training runs at a time; on GPUs as many as memory and cores allow. `jobs`
    replaces this number.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    gpus = torch.cuda.device_count()
    if not gpus:
        count = jobs or 1
        threads = {"OMP_NUM_THREADS": str(max(cores // count, 1))} if count > 1 else {}
        return Machine((threads,) * count, 1, f"{cores} CPU cores{_processor()}")
    name, free_memory = call_in_child(_query_gpu)
    description = f"{gpus} x {name}, {cores} CPU cores"
    if size.uses_all_gpus:
        return Machine(({},), gpus, description)
    per_gpu = max(int(free_memory / 2**30 / size.gpu_memory), 1)
    count = jobs or max(min(per_gpu * gpus, cores // CORES_PER_TRAINING), 1)
    threads = {"OMP_NUM_THREADS": str(max(cores // count, 1))}
    visible = _visible_gpus(gpus)
    slots = tuple({"CUDA_VISIBLE_DEVICES": visible[k % gpus], **threads} for k in range(count))
    return Machine(slots, 1, description)


def _visible_gpus(count: int) -> list[str]:
    """Return the first `count` entries of CUDA_VISIBLE_DEVICES: indices, or ids of GPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return [entry.strip() for entry in visible.split(",")][:count]


def _query_gpu() -> tuple[str, int]:
    """Return the name of the first GPU and its free memory in bytes."""
    return torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0]


def call_in_child(function: Callable[..., Result], *arguments: Any) -> Result:
    """Return the result of a function called in a new process, which then releases its memory.

    A process that has used a GPU keeps some of its memory until it ends.

    Raises:
        TrainingError: the process was killed.
    """
    # Ctrl-C ends the call in this process; the new one would print a traceback.
    ignore_interrupts = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(1, get_context("spawn"), signal.signal, ignore_interrupts) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise TrainingError(
                f"the process that runs {function.__name__} was killed; free memory and repeat the "
                "command"
            ) from None


def _processor() -> str:
    """Return the processor's name in parentheses, if Linux knows it."""
    lines = _CPUINFO.read_text(encoding="utf-8").splitlines() if _CPUINFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f" ({names[0]})" if names else ""


@dataclass(frozen=True, slots=True)
class Running:
    """A running job, and the jobs of its chain that follow."""

    job: Job
    following: tuple[Job, ...]
    slot: int
    process: subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed job and the last line of its output."""

    job: Job
    message: str


ProgressCallback = Callable[[Sequence[Running], Job | None], None]
"""Receives the running jobs, and a job that has just ended."""


def run_job_chains(
    chains: Sequence[Sequence[Job]],
    directory: ReproductionDirectory,
    machine: Machine,
    on_progress: ProgressCallback,
) -> list[Failure]:
    """Run the unfinished jobs of every chain, and return those that failed.

    Jobs of a chain run one after the other. A failed job ends its chain; other chains go on.

    Raises:
        StoppedBySignalError: SIGTERM, SIGHUP or Ctrl-C, after all running jobs have stopped.
    """
    waiting = deque(tuple(job for job in chain if not job.finished) for chain in chains)
    free_slots = list(range(len(machine.slots)))
    running: dict[int, Running] = {}
    failures: list[Failure] = []
    reported = -math.inf
    with StopSignal() as stop, _terminate_on_exit(running):
        while waiting or running:
            while waiting and free_slots:
                if chain := waiting.popleft():
                    slot = free_slots.pop(0)
                    running[slot] = _start(chain, slot, directory, machine)
            time.sleep(_POLL_SECONDS)
            if stop.number is not None:
                raise StoppedBySignalError("stopped; repeat the command to resume", stop.number)
            if time.monotonic() - reported > _PROGRESS_SECONDS:
                on_progress(list(running.values()), None)
                reported = time.monotonic()
            for slot, one in list(running.items()):
                if one.process.poll() is None:
                    continue
                del running[slot]
                free_slots.append(slot)
                if one.job.finished and one.process.returncode == 0:
                    waiting.appendleft(one.following)
                else:
                    failures.append(Failure(one.job, _last_line(directory.log(one.job))))
                on_progress(list(running.values()), one.job)
    return failures


def _start(
    chain: Sequence[Job], slot: int, directory: ReproductionDirectory, machine: Machine
) -> Running:
    job, *following = chain
    log = directory.log(job)
    for folder in (job.output.parent, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen(
            job.command(machine.processes_per_training),
            env=os.environ | _SAFE_PATH | machine.slots[slot],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process only, which stops the jobs
        )
    return Running(job, tuple(following), slot, process)


@contextmanager
def _terminate_on_exit(running: Mapping[int, Running]) -> Iterator[None]:
    """Send SIGTERM to the running jobs on exit and wait for them: trainings save their state."""
    try:
        yield
    finally:
        for one in running.values():
            one.process.send_signal(signal.SIGTERM)
        for one in running.values():
            one.process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    messages = [line.strip() for line in lines if line.strip()]
    return messages[-1].removeprefix("error: ") if messages else "no output"
