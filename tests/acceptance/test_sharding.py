"""A run by one process, by two processes, and by two that are killed and resumed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mpdiag.analysis import analyze
from mpdiag.data import generate_synthetic
from mpdiag.errors import RunError
from mpdiag.store import Run

IMAGES = 32 * 3 + 7  # four parts


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
    train(load_recipe("synthetic-tiny", changes), output, console=Console(quiet=True))
    return output


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, as under torchrun: another number can change the order of summation."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def two_processes(*words: object) -> subprocess.Popen[str]:
    start = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mpdiag")
    return subprocess.Popen(
        [sys.executable, "-m", *start, "analyze", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(run: Path, table: str) -> object:
    return Run.open(run).query(f"SELECT * FROM {table} ORDER BY ALL")


def test_sharded_and_resumed_runs_are_identical(tmp_path: Path, trained: Path, root: Path) -> None:
    masks = ("--save-masks", "worst:6", "--save-attention")
    words = (trained, "--dataset", "synthetic", "--root", root, *masks)
    analyze(
        trained, "synthetic", tmp_path / "one", root=root, save_masks="worst:6", save_attention=True
    )
    process = two_processes(*words, "--output", tmp_path / "two")
    out, err = process.communicate()
    assert process.returncode == 0, err[-2000:]
    assert out.count(str(tmp_path / "two")) == 1

    killed = tmp_path / "killed"
    process = two_processes(*words, "--output", killed)
    while process.poll() is None and not any((killed / "images").glob("*.parquet")):
        time.sleep(0.02)
    for one in (*children(process.pid), process.pid):
        os.kill(one, signal.SIGKILL)
    process.communicate()
    with pytest.raises(RunError, match="unfinished"):
        Run.open(killed)
    assert 0 < len(list((killed / "images").glob("*.parquet"))) < 4
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
    for name in ("two", "killed"):
        for folder in ("masks", "attention"):
            assert [path.name for path in (tmp_path / name / folder).iterdir()] == ["worst.parquet"]
        for table in ("queries", "targets", "images", "masks", "attention", "detections"):
            assert rows(tmp_path / name, table).equals(rows(tmp_path / "one", table)), table
        thumbnails = [
            {path.name for path in (tmp_path / run / "thumbnails").iterdir()}
            for run in ("one", name)
        ]
        assert thumbnails[0] == thumbnails[1]


def children(parent: int) -> list[int]:
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(child) for child in listed]


def test_error_is_printed_once(tmp_path: Path, trained: Path, root: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    process = two_processes(trained, "--dataset", "synthetic", "--root", root, "--output", tmp_path)
    _, err = process.communicate()
    assert process.returncode != 0 and err.count("contains other files (notes.txt)") == 1
