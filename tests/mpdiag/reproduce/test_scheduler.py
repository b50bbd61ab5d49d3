"""Steps run in order, side by side, once; what fails is told and stops nothing else."""

import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from mpdiag.reproduce import scheduler
from mpdiag.reproduce.layout import Layout, Step
from mpdiag.reproduce.scheduler import Machine, Running, run_chains
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
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """Steps of this layout run their second word as Python code."""

    def command(step: Step, processes: int) -> list[str]:
        return [sys.executable, "-S", "-c", step.words[1], str(step.output)]

    monkeypatch.setattr(scheduler, "command", command)
    monkeypatch.setattr(scheduler, "_PAUSE", 0.01)
    return Layout(tmp_path)


def step(layout: Layout, name: str, code: str = FINISH) -> Step:
    return Step(name, ("train", code), layout.training(name))


def machine(slots: int) -> Machine:
    return Machine(({},) * slots, 1, "here")


def silent(running: Sequence[Running], ended: Step | None) -> None:
    """Watches nothing."""


def test_chains_run_in_order_and_what_is_finished_is_skipped(layout: Layout) -> None:
    ended: list[str] = []

    def watch(running: Sequence[Running], step: Step | None) -> None:
        ended.extend([step.name] if step else [])

    chains = [[step(layout, "a1"), step(layout, "a2")], [step(layout, "b1")]]
    assert run_chains(chains, layout, machine(1), watch) == []
    assert ended == ["a1", "a2", "b1"]
    assert run_chains(chains, layout, machine(1), watch) == []
    assert ended == ["a1", "a2", "b1"]


@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_of_the_current_directory_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """It may be a stranger's: there `python -m` would find his modules before ours."""
    for name in ("mpdiag", "torch", "typer"):
        (tmp_path / f"{name}.py").write_text("print('a stranger was here')\nraise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    layout = Layout(tmp_path / "out")
    unknown = Step("one", ("train", "no-such-recipe"), layout.training("one"))
    run_chains([[unknown]], layout, Machine(({},), processes, "here"), silent)
    said = layout.log(unknown).read_text()
    assert "no-such-recipe: no such recipe" in said and "stranger" not in said


def test_as_many_run_side_by_side_as_there_are_slots(layout: Layout) -> None:
    most = 0

    def watch(running: Sequence[Running], step: Step | None) -> None:
        nonlocal most
        most = max(most, len(running))
        assert len({one.slot for one in running}) == len(running)

    slow = "import time; time.sleep(0.2)\n" + FINISH
    chains = [[step(layout, name, slow)] for name in "abc"]
    assert run_chains(chains, layout, machine(2), watch) == []
    assert most == 2


def test_a_failure_ends_its_chain_and_no_other(layout: Layout) -> None:
    chains = [[step(layout, "bad", FAIL), step(layout, "after")], [step(layout, "good")]]
    (failure,) = run_chains(chains, layout, machine(1), silent)
    assert failure.step.name == "bad" and failure.said == "the disk is full"
    assert not chains[0][1].finished and chains[1][0].finished
    assert "working" in layout.log(failure.step).read_text()


def test_a_step_that_leaves_nothing_has_failed(layout: Layout) -> None:
    (failure,) = run_chains([[step(layout, "empty", "pass")]], layout, machine(1), silent)
    assert failure.said == "it said nothing"


def test_a_signal_stops_what_runs(layout: Layout) -> None:
    seen: list[Running] = []

    def watch(running: Sequence[Running], step: Step | None) -> None:
        if not seen:
            seen.extend(running)
            threading.Timer(0.0, signal.raise_signal, [signal.SIGTERM]).start()

    since = time.monotonic()
    with pytest.raises(StoppedBySignalError, match="goes on where it was"):
        run_chains([[step(layout, "long", WAIT)]], layout, machine(1), watch)
    assert seen[0].process.returncode == -signal.SIGTERM and time.monotonic() - since < 50
