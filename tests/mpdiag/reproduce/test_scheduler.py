"""Order and concurrency of jobs, failures, and signals."""

import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from mpdiag.reproduce import scheduler
from mpdiag.reproduce.directory import Job, ReproductionDirectory
from mpdiag.reproduce.scheduler import Machine, Running, run_job_chains
from trainers.signals import StoppedBySignalError

FINISH = """
import pathlib, sys
output = pathlib.Path(sys.argv[1])
output.mkdir(parents=True)
(output / "model_final.pth").touch()
"""
FAIL = "print('working'); print('error: the disk is full'); raise SystemExit(2)"
WAIT = "import time; time.sleep(60)"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReproductionDirectory:
    """Return a directory whose jobs run their second argument as Python code."""

    def command(job: Job, num_processes: int) -> list[str]:
        return [sys.executable, "-S", "-c", job.arguments[1], str(job.output)]

    monkeypatch.setattr(Job, "command", command)
    monkeypatch.setattr(scheduler, "_POLL_SECONDS", 0.01)
    return ReproductionDirectory(tmp_path)


def make_job(directory: ReproductionDirectory, name: str, code: str = FINISH) -> Job:
    return Job(name, ("train", code), directory.training(name))


def machine(slots: int) -> Machine:
    return Machine(({},) * slots, 1, "here")


def ignore(running: Sequence[Running], ended: Job | None) -> None:
    """Ignore the progress."""


def test_chains_run_in_order_and_finished_jobs_are_skipped(
    directory: ReproductionDirectory,
) -> None:
    ended: list[str] = []

    def on_progress(running: Sequence[Running], job: Job | None) -> None:
        ended.extend([job.name] if job else [])

    chains = [[make_job(directory, "a1"), make_job(directory, "a2")], [make_job(directory, "b1")]]
    assert run_job_chains(chains, directory, machine(1), on_progress) == []
    assert ended == ["a1", "a2", "b1"]
    assert run_job_chains(chains, directory, machine(1), on_progress) == []
    assert ended == ["a1", "a2", "b1"]


@pytest.mark.parametrize("processes", [1, 2])
def test_jobs_import_nothing_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """`python -m` would find modules of an untrusted directory first."""
    for name in ("mpdiag", "torch", "typer"):
        (tmp_path / f"{name}.py").write_text("print('untrusted module')\nraise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    directory = ReproductionDirectory(tmp_path / "out")
    unknown = Job("one", ("no-such-command",), directory.training("one"))
    run_job_chains([[unknown]], directory, Machine(({},), processes, "here"), ignore)
    log = directory.log(unknown).read_text()
    assert "No such command 'no-such-command'" in log and "untrusted" not in log


def test_as_many_jobs_run_as_there_are_slots(directory: ReproductionDirectory) -> None:
    most = 0

    def on_progress(running: Sequence[Running], job: Job | None) -> None:
        nonlocal most
        most = max(most, len(running))
        assert len({one.slot for one in running}) == len(running)

    slow = "import time; time.sleep(0.2)\n" + FINISH
    chains = [[make_job(directory, name, slow)] for name in "abc"]
    assert run_job_chains(chains, directory, machine(2), on_progress) == []
    assert most == 2


def test_a_failed_job_ends_only_its_chain(directory: ReproductionDirectory) -> None:
    chains = [
        [make_job(directory, "bad", FAIL), make_job(directory, "after")],
        [make_job(directory, "good")],
    ]
    (failure,) = run_job_chains(chains, directory, machine(1), ignore)
    assert failure.job.name == "bad" and failure.message == "the disk is full"
    assert not chains[0][1].finished and chains[1][0].finished
    assert "working" in directory.log(failure.job).read_text()


def test_a_job_without_result_has_failed(directory: ReproductionDirectory) -> None:
    (failure,) = run_job_chains(
        [[make_job(directory, "empty", "pass")]], directory, machine(1), ignore
    )
    assert failure.message == "no output"


def test_a_signal_stops_the_running_jobs(directory: ReproductionDirectory) -> None:
    seen: list[Running] = []

    def on_progress(running: Sequence[Running], job: Job | None) -> None:
        if not seen:
            seen.extend(running)
            threading.Timer(0.0, signal.raise_signal, [signal.SIGTERM]).start()

    since = time.monotonic()
    with pytest.raises(StoppedBySignalError, match="repeat the command to resume"):
        run_job_chains([[make_job(directory, "long", WAIT)]], directory, machine(1), on_progress)
    assert seen[0].process.returncode == -signal.SIGTERM and time.monotonic() - since < 50
