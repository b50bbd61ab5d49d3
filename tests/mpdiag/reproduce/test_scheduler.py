"""Steps run in order, side by side, once; what fails is told and stops nothing else."""

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
from trainers.interrupt import StoppedBySignalError

FINISH = """
import pathlib, sys
output = pathlib.Path(sys.argv[1])
output.mkdir(parents=True)
(output / "model_final.pth").touch()
"""
FAIL = "print('working'); print('error: the disk is full'); raise SystemExit(2)"
WAIT = "import time; time.sleep(60)"


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReproductionDirectory:
    """Steps of this layout run their second word as Python code."""

    def command(step: Job, processes: int) -> list[str]:
        return [sys.executable, "-S", "-c", step.words[1], str(step.output)]

    monkeypatch.setattr(scheduler, "command", command)
    monkeypatch.setattr(scheduler, "_PAUSE", 0.01)
    return ReproductionDirectory(tmp_path)


def step(layout: ReproductionDirectory, name: str, code: str = FINISH) -> Job:
    return Job(name, ("train", code), layout.training(name))


def machine(slots: int) -> Machine:
    return Machine(({},) * slots, 1, "here")


def silent(running: Sequence[Running], ended: Job | None) -> None:
    """Watches nothing."""


def test_chains_run_in_order_and_what_is_finished_is_skipped(layout: ReproductionDirectory) -> None:
    ended: list[str] = []

    def watch(running: Sequence[Running], step: Job | None) -> None:
        ended.extend([step.name] if step else [])

    chains = [[step(layout, "a1"), step(layout, "a2")], [step(layout, "b1")]]
    assert run_job_chains(chains, layout, machine(1), watch) == []
    assert ended == ["a1", "a2", "b1"]
    assert run_job_chains(chains, layout, machine(1), watch) == []
    assert ended == ["a1", "a2", "b1"]


@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_of_the_current_directory_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """It may be a stranger's: there `python -m` would find his modules before ours."""
    for name in ("mpdiag", "torch", "typer"):
        (tmp_path / f"{name}.py").write_text("print('a stranger was here')\nraise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    layout = ReproductionDirectory(tmp_path / "out")
    unknown = Job("one", ("train", "no-such-recipe"), layout.training("one"))
    run_job_chains([[unknown]], layout, Machine(({},), processes, "here"), silent)
    said = layout.log(unknown).read_text()
    assert "no-such-recipe: no such recipe" in said and "stranger" not in said


def test_as_many_run_side_by_side_as_there_are_slots(layout: ReproductionDirectory) -> None:
    most = 0

    def watch(running: Sequence[Running], step: Job | None) -> None:
        nonlocal most
        most = max(most, len(running))
        assert len({one.slot for one in running}) == len(running)

    slow = "import time; time.sleep(0.2)\n" + FINISH
    chains = [[step(layout, name, slow)] for name in "abc"]
    assert run_job_chains(chains, layout, machine(2), watch) == []
    assert most == 2


def test_a_failure_ends_its_chain_and_no_other(layout: ReproductionDirectory) -> None:
    chains = [[step(layout, "bad", FAIL), step(layout, "after")], [step(layout, "good")]]
    (failure,) = run_job_chains(chains, layout, machine(1), silent)
    assert failure.step.name == "bad" and failure.said == "the disk is full"
    assert not chains[0][1].finished and chains[1][0].finished
    assert "working" in layout.log(failure.step).read_text()


def test_a_step_that_leaves_nothing_has_failed(layout: ReproductionDirectory) -> None:
    (failure,) = run_job_chains([[step(layout, "empty", "pass")]], layout, machine(1), silent)
    assert failure.said == "it said nothing"


def test_a_signal_stops_what_runs(layout: ReproductionDirectory) -> None:
    seen: list[Running] = []

    def watch(running: Sequence[Running], step: Job | None) -> None:
        if not seen:
            seen.extend(running)
            threading.Timer(0.0, signal.raise_signal, [signal.SIGTERM]).start()

    since = time.monotonic()
    with pytest.raises(StoppedBySignalError, match="goes on where it was"):
        run_job_chains([[step(layout, "long", WAIT)]], layout, machine(1), watch)
    assert seen[0].process.returncode == -signal.SIGTERM and time.monotonic() - since < 50
