"""Processes that start at once: forks of a server that has imported torch and the packages.

A new interpreter takes seconds to import them. Targets must be functions of an importable module.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

context = get_context("forkserver")
context.set_forkserver_preload(["mpdiag.cli", "mpdiag.analysis", "trainers.loop"])


class Forked:
    """A function in a process of its own session, which has its own standard streams."""

    def __init__(
        self,
        folder: Path,
        function: Callable[..., object],
        *arguments: object,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process. The files `out` and `err` of `folder` keep what it prints."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._process = context.Process(
            target=_run, args=(folder, dict(environment or {}), function, arguments)
        )
        self._process.start()
        self.pid = self._process.pid or 0

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait until the process ends, at most so long; return its exit code, None if it runs."""
        self._process.join(seconds)
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, None if it runs."""
        return self.wait(0)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def signal(self, number: int) -> None:
        """Signal all processes of the session, unless they have ended."""
        with suppress(ProcessLookupError):
            has_session = os.getpgid(self.pid) == self.pid
            (os.killpg if has_session else os.kill)(self.pid, number)

    @property
    def err(self) -> str:
        """What the process printed to stderr so far."""
        return (self._folder / "err").read_text()


def _run(
    folder: Path,
    environment: dict[str, str],
    function: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    os.setsid()
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        with (folder / name).open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.environ.update(environment)
    torch.set_num_threads(1)  # as under torchrun
    function(*arguments)


def run_command(*words: object) -> None:
    """Run `mpdiag WORDS`, as the target of a process."""
    from mpdiag.cli import main

    sys.argv = ["mpdiag", *map(str, words)]
    main()


def start_ranks(
    folder: Path, count: int, function: Callable[..., object], *arguments: object
) -> list[Forked]:
    """Start a function in `count` processes with the environment that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        Forked(
            folder / f"rank-{rank}",
            function,
            *arguments,
            environment=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]


@contextmanager
def _kept_signal_handlers() -> Iterator[None]:
    """Restore the handlers that the launcher replaces; forks would inherit them."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def torchrun(folder: Path, count: int, function: Callable[..., object], *arguments: object) -> str:
    """Let torchrun's launcher run a function in `count` processes, and return what they print."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(str(folder), redirects=Std.OUT),
    )
    with _kept_signal_handlers():
        elastic_launch(config, function)(*arguments)
    return "".join(file.read_text() for file in sorted(folder.rglob("stdout.log")))
