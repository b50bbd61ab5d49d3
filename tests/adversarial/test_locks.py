"""Two processes on one output directory: the second is refused, and the first is not disturbed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from mpdiag.analysis import analyze
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.data import SegmentationDataset
from mpdiag.errors import RunError
from mpdiag.store import Run
from mpdiag.store.lock import LOCK, lock_directory
from trainers.loop import train
from trainers.output import lock_output
from trainers.recipe import load_recipe

HOLD = """
import os, sys, time
from pathlib import Path
from mpdiag.store.lock import lock_directory
with lock_directory(Path(sys.argv[1])):
    if "fork" in sys.argv and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_process(directory: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that locks the directory until the block ends."""
    command = [sys.executable, "-c", HOLD, str(directory), *words]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def content(directory: Path) -> dict[str, bytes]:
    files = (file for file in directory.rglob("*") if file.is_file() and file.name != LOCK)
    return {str(file.relative_to(directory)): file.read_bytes() for file in files}


def test_second_process_is_refused(
    tmp_path: Path,
    small_checkpoint: LoadedCheckpoint,
    synthetic: SegmentationDataset,
    synthetic_root: Path,
) -> None:
    """The error names the process, also with --resume, and no file changes."""
    small_training = [f"data.root={synthetic_root}", "evaluate_every=null", "data.batch_size=1"]
    calls: list[Callable[[Path, bool], Any]] = [
        lambda path, resume: analyze(small_checkpoint, synthetic, path, resume=resume),
        lambda path, resume: train(
            load_recipe("synthetic-tiny", ["method=baseline", "init=null", *small_training]),
            path,
            resume=resume,
            console=Console(quiet=True),
        ),
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with other_process(tmp_path / "run") as process:
        before = content(tmp_path / "run")
        for call in calls:
            for resume in (False, True):
                with pytest.raises(RunError, match=rf"run: process {process.pid} on \S+ is writ"):
                    call(tmp_path / "run", resume)
        assert content(tmp_path / "run") == before


def test_one_process_refuses_itself(
    tmp_path: Path, small_checkpoint: LoadedCheckpoint, synthetic: SegmentationDataset
) -> None:
    def again(done: int, total: int) -> None:
        with pytest.raises(RunError, match=f"process {os.getpid()} on"):
            analyze(small_checkpoint, synthetic, tmp_path / "run", resume=True)

    analyze(small_checkpoint, synthetic, tmp_path / "run", progress=again, limit=2)
    assert Run.open(tmp_path / "run").summary["num_images"] == 2
    assert not (tmp_path / "run" / LOCK).exists()


@pytest.mark.parametrize("words", [(), ("fork",)])
def test_lock_of_a_killed_process_is_stale(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Its file is still there, and a child process may be alive."""
    with other_process(tmp_path, *words) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert (tmp_path / LOCK).read_text().startswith(f"process {process.pid} on ")
        with lock_directory(tmp_path):
            assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert not list(tmp_path.iterdir())


def test_other_entries_named_like_the_lock(tmp_path: Path) -> None:
    """A link is not followed, and a hostile owner cannot write to the terminal."""
    (tmp_path / "victim").write_text("content")
    (tmp_path / LOCK).symlink_to("victim")
    with pytest.raises(OSError), lock_directory(tmp_path):
        pass
    assert (tmp_path / "victim").read_text() == "content"
    (tmp_path / LOCK).unlink()
    with other_process(tmp_path):
        (tmp_path / LOCK).write_bytes(b"\x1b[31m" + b"x" * 900)
        with pytest.raises(RunError) as caught, lock_directory(tmp_path):
            pass
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_failed_start_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock_directory(tmp_path / "a" / "run"):
        raise KeyError
    assert not (tmp_path / "a" / "run").exists()
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunError, match="file: is a file; give a directory"),
        lock_directory(tmp_path / "file"),
    ):
        pass


def test_only_the_main_process_locks(tmp_path: Path) -> None:
    """The other ranks exit with code 2 if it fails."""
    with lock_directory(tmp_path):
        rank: Any = SimpleNamespace(is_main_process=False, any=lambda flag: flag)
        with lock_output(tmp_path, rank):
            pass
        rank.any = lambda flag: True
        with pytest.raises(SystemExit, match="2"), lock_output(tmp_path, rank):
            pass
        main: Any = SimpleNamespace(is_main_process=True, any=lambda flag: flag)
        with pytest.raises(RunError, match="is writing"), lock_output(tmp_path, main):
            pass
