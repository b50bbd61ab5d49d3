"""Chains of commands, as many side by side as there is room for; each goes on where it stopped."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import torch

from mpdiag.reproduce.directory import Job, ReproductionDirectory, command
from mpdiag.reproduce.experiments import Size
from trainers.interrupt import StoppedBySignalError, StopRequest

CORES_EACH = 2  # of the processes that share a machine with GPUs
_CPUINFO = Path("/proc/cpuinfo")
_SAFE = {"PYTHONSAFEPATH": "1"}  # no module is taken from the current directory
_PAUSE = 0.2  # seconds between two looks at what runs


@dataclass(frozen=True, slots=True)
class Machine:
    """What trainings run on.

    Attributes:
        slots: environment of each training that runs beside the others.
        processes: of one training, by torchrun.
        where: in words.
    """

    slots: tuple[dict[str, str], ...]
    processes: int
    where: str

    def __str__(self) -> str:
        count = len(self.slots)
        return f"{self.where}, {count} {'training' if count == 1 else 'trainings'} at a time"


def plan_machine(size: Size, jobs: int | None) -> Machine:
    """One at a time on a CPU, which a training fills; on GPUs as many as fit.

    Args:
        jobs: how many instead, if given.
    """
    cores = len(os.sched_getaffinity(0))
    gpus = torch.cuda.device_count()
    if not gpus:
        count = jobs or 1
        threads = {"OMP_NUM_THREADS": str(max(cores // count, 1))} if count > 1 else {}
        return Machine((threads,) * count, 1, f"{cores} CPU cores{_processor()}")
    where = f"{gpus} x {torch.cuda.get_device_name()}, {cores} CPU cores"
    if size.alone:
        return Machine(({},), gpus, where)
    each = max(int(torch.cuda.mem_get_info()[0] / 2**30 / size.gpu_memory), 1)
    count = jobs or max(min(each * gpus, cores // CORES_EACH), 1)
    threads = {"OMP_NUM_THREADS": str(max(cores // count, 1))}
    slots = tuple({"CUDA_VISIBLE_DEVICES": str(k % gpus), **threads} for k in range(count))
    return Machine(slots, 1, where)


def _processor() -> str:
    """The processor's name in brackets, where Linux gives one."""
    lines = _CPUINFO.read_text(encoding="utf-8").splitlines() if _CPUINFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f" ({names[0]})" if names else ""


@dataclass(slots=True)
class Running:
    """A step on its way, in a slot."""

    step: Job
    slot: int
    process: subprocess.Popen[bytes]
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Failure:
    """A step that came to nothing, and the last line that it said."""

    step: Job
    said: str


Watch = Callable[[Sequence[Running], Job | None], None]
"""Called again and again with what runs, and with a step that has just ended."""


def run_job_chains(
    chains: Sequence[Sequence[Job]], layout: ReproductionDirectory, machine: Machine, watch: Watch
) -> list[Failure]:
    """Run what is not finished of every chain, in the chains' order.

    A step that fails ends its chain and no other.

    Raises:
        StoppedBySignalError: SIGTERM or Ctrl-C; the steps were asked to stop, and have.
    """
    waiting = [list(chain) for chain in chains]
    free = list(range(len(machine.slots)))
    running: dict[int, Running] = {}
    behind: dict[int, list[Job]] = {}
    failures: list[Failure] = []
    with StopRequest() as stop, _stopped_at_last(running):
        while True:
            while free and (steps := _next(waiting)):
                slot = free.pop(0)
                running[slot] = _start(steps[0], slot, layout, machine)
                behind[slot] = steps[1:]
            if not running:
                return failures
            time.sleep(_PAUSE)
            if stop.number is not None:
                message = "stopped; the same command goes on where it was"
                raise StoppedBySignalError(message, stop.number)
            watch(list(running.values()), None)
            for slot, one in list(running.items()):
                if one.process.poll() is None:
                    continue
                del running[slot]
                free.append(slot)
                if one.step.finished and one.process.returncode == 0:
                    waiting.insert(0, behind[slot])
                else:
                    failures.append(Failure(one.step, _last_line(layout.log(one.step))))
                watch(list(running.values()), one.step)


def _next(waiting: list[list[Job]]) -> list[Job]:
    """The unfinished steps of the next chain that has any; empty where none is left."""
    while waiting:
        steps = [step for step in waiting.pop(0) if not step.finished]
        if steps:
            return steps
    return []


def _start(step: Job, slot: int, layout: ReproductionDirectory, machine: Machine) -> Running:
    step.output.parent.mkdir(parents=True, exist_ok=True)
    with _log(layout.log(step)) as stream:
        process = subprocess.Popen(
            command(step, machine.processes),
            env=os.environ | _SAFE | machine.slots[slot],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which asks the others to stop
        )
    return Running(step, slot, process)


@contextmanager
def _log(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        yield stream


@contextmanager
def _stopped_at_last(running: Mapping[int, Running]) -> Iterator[None]:
    """Whatever ends this, nothing runs on: trainings are asked to keep their last step and end."""
    try:
        yield
    finally:
        for one in running.values():
            one.process.send_signal(signal.SIGTERM)
        for one in running.values():
            one.process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("error: ") if said else "it said nothing"
