"""Analyses that are killed at random moments and resumed give the results of one that is not."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from mpdiag.analysis import analyze
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.data import SegmentationDataset
from mpdiag.errors import RunError
from mpdiag.store import Run
from mpdiag.store.lock import LOCK

KILLS = int(os.environ.get("MPDIAG_KILLS", "2"))
TABLES = ("images", "targets", "queries", "detections", "masks", "attention")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_analyses_resume_to_equal_results(
    tmp_path: Path,
    small_checkpoint: LoadedCheckpoint,
    synthetic: SegmentationDataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kill the processes of a run until one finishes; then start the next run. All are equal."""
    monkeypatch.setattr("mpdiag.analysis.run.IMAGES_PER_PART", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process has one thread
    try:
        start = time.perf_counter()
        write = analysis(small_checkpoint, synthetic)
        write(tmp_path / "whole")
        duration = time.perf_counter() - start
        expected = results(tmp_path / "whole")
        generator, kills = random.Random(0), 0
        while kills < KILLS:
            path = tmp_path / str(kills)
            while killed(write, path, generator.uniform(0, 1.2 * duration)):
                kills += 1
                assert kills < 10 * KILLS + 100, "no process finishes"
                if finished(path):  # killed between its last write and its end
                    break
            assert results(path) == expected
            shutil.rmtree(path)
    finally:
        torch.set_num_threads(threads)


def analysis(
    checkpoint: LoadedCheckpoint, data: SegmentationDataset
) -> Callable[[Path], dict[str, object]]:
    return lambda path: analyze(
        checkpoint, data, path, limit=3, resume=True, save_masks="worst:3", save_attention=True
    )


def finished(path: Path) -> bool:
    try:
        Run.open(path)
    except RunError:
        return False
    return True


def killed(write: Callable[[Path], object], path: Path, seconds: float) -> bool:
    """Run the analysis in a child process; return whether it was killed after some seconds."""
    process = get_context("fork").Process(target=write, args=(path,))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def results(path: Path) -> dict[str, object]:
    """Return summary and rows; and the names of the files, without locks."""
    run = Run.open(path)
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    tables = {name: run.query(f"SELECT * FROM {name} ORDER BY ALL").to_json() for name in TABLES}
    return {"summary": run.summary, "files": files - {LOCK}, **tables}
