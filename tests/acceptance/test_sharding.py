"""A run by one process, by two processes, and by two that are killed and resumed."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from mpdiag.analysis import analyze
from mpdiag.analysis import run as analysis
from mpdiag.data import generate_synthetic
from mpdiag.errors import RunError
from mpdiag.store import Run, RunWriter

from ..processes import run_command, start_ranks, torchrun
from ..small_recipe import SMALL

PARTS = 4
IMAGES_PER_PART = 2
IMAGES = IMAGES_PER_PART * (PARTS - 1) + 1


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    generate_synthetic(root / "synthetic", train=4, val=IMAGES, size=64)
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    from rich.console import Console

    from trainers.loop import train
    from trainers.recipe import load_recipe

    output = tmp_path_factory.mktemp("train") / "baseline"
    changes = [f"data.root={root}", "schedule.iterations=1", "data.batch_size=2"]
    train(load_recipe("synthetic-tiny", [*SMALL, *changes]), output, console=Console(quiet=True))
    return output


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use one thread, as under torchrun: another number can change the order of summation."""
    monkeypatch.setattr(analysis, "IMAGES_PER_PART", IMAGES_PER_PART)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def analyze_command(*words: object) -> None:
    """Run `mpdiag analyze WORDS` with small parts, as the target of a process."""
    analysis.IMAGES_PER_PART = IMAGES_PER_PART
    run_command("analyze", *words)


def analyze_one_part(*words: object) -> None:
    """Run `mpdiag analyze WORDS` until the first part of this process is written, and wait."""
    write = RunWriter.write

    def write_and_wait(*arguments: Any) -> None:
        write(*arguments)
        signal.pause()

    RunWriter.write = write_and_wait
    analyze_command(*words)


def rows(run: Run, table: str) -> pd.DataFrame:
    return run.query(f"SELECT * FROM {table} ORDER BY ALL")


@pytest.mark.slow
def test_sharded_and_resumed_runs_are_identical(tmp_path: Path, trained: Path, root: Path) -> None:
    masks = ("--save-masks", "worst:6", "--save-attention")
    words = (trained, "--dataset", "synthetic", "--root", root, *masks)
    analyze(
        trained, "synthetic", tmp_path / "one", root=root, save_masks="worst:6", save_attention=True
    )
    out = torchrun(tmp_path / "streams", 2, analyze_command, *words, "--output", tmp_path / "two")
    assert out.count(f"{tmp_path / 'two'}\n") == 1

    killed = tmp_path / "killed"
    processes = start_ranks(
        tmp_path / "killed-streams", 2, analyze_one_part, *words, "--output", killed
    )
    while processes[0].wait(0.02) is None and not any((killed / "images").glob("*.parquet")):
        pass
    for process in processes:
        process.signal(signal.SIGKILL)
        process.wait()
    with pytest.raises(RunError, match="unfinished"):
        Run.open(killed)
    assert 0 < len(list((killed / "images").glob("*.parquet"))) < PARTS
    analyze(
        trained,
        "synthetic",
        killed,
        root=root,
        save_masks="worst:6",
        save_attention=True,
        resume=True,
    )

    summaries = {
        (tmp_path / name / "summary.json").read_bytes() for name in ("one", "two", "killed")
    }
    assert len(summaries) == 1
    one = Run.open(tmp_path / "one")
    for name in ("two", "killed"):
        other = Run.open(tmp_path / name)
        for folder in ("masks", "attention"):
            assert [path.name for path in (tmp_path / name / folder).iterdir()] == ["worst.parquet"]
        for table in ("queries", "targets", "images", "masks", "attention", "detections"):
            assert rows(other, table).equals(rows(one, table)), table
        thumbnails = [
            {path.name for path in (tmp_path / run / "thumbnails").iterdir()}
            for run in ("one", name)
        ]
        assert thumbnails[0] == thumbnails[1]


@pytest.mark.slow
def test_error_is_printed_once(tmp_path: Path, trained: Path, root: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    words = (trained, "--dataset", "synthetic", "--root", root, "--output", tmp_path)
    processes = start_ranks(tmp_path.with_name("streams"), 2, analyze_command, *words)
    assert all(process.wait() != 0 for process in processes)
    err = "".join(process.err for process in processes)
    assert err.count("contains other files (notes.txt)") == 1
