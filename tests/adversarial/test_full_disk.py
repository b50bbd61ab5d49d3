"""A full disk: every write fails once, the error names the file, and no file is cut."""

import ast
import builtins
import errno
import io
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from mpdiag.analysis import analyze
from mpdiag.checkpoints import LoadedCheckpoint, load_checkpoint, save_checkpoint
from mpdiag.cli import main
from mpdiag.config import ModelConfig, TrainConfig
from mpdiag.data import SegmentationDataset, generate_synthetic
from mpdiag.errors import DataError, MpdiagError, OutputError
from mpdiag.models import Mask2Former
from mpdiag.store import Run, RunWriter, compare, writer
from mpdiag.store.aggregates import compute_aggregates
from mpdiag.store.database import connect
from mpdiag.store.schema import TABLES
from reports import report, write_report
from reports.comparison import write_comparison
from trainers.logger import FileLogger
from trainers.loop import train
from trainers.recipe import load_recipe

MakeRun = Callable[..., Path]
Files = dict[str, bytes]
ROOT = Path(__file__).parents[2]
SMALL = (
    "model.hidden_dim=32",
    "model.mask_dim=16",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "model.num_queries=8",
    "model.backbone={name: resnet18, channels: [8, 8, 8, 8], stem_channels: 8, norm: batch}",
    "init=null",
    "data.batch_size=2",
    "schedule.warmup_iterations=0",
    "schedule.iterations=2",
    "log_every=1",
    "evaluate_every=null",
    "layer_metrics_every=null",
)


class Disk:
    """A disk with `free` bytes below `root`, which replaces `open` of Python.

    Attributes:
        writes: bytes written before and after each call of `write`, and the path.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.free = sys.maxsize
        self.used = 0
        self.writes: list[tuple[int, int, str]] = []
        self._open = io.open

    def open(self, path: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any):
        writing = set(mode) & set("wax+")
        if not writing or isinstance(path, int) or not os.fspath(path).startswith(self.root):
            return self._open(path, mode, buffering, *args, **options)
        raw = _File(self, os.fspath(path), mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        stream = io.BufferedWriter(raw)
        return stream if "b" in mode else io.TextIOWrapper(stream, *args, **options)

    def restart(self, free: int) -> None:
        self.free, self.used = free, 0


class _File(io.FileIO):
    def __init__(self, disk: Disk, path: str, mode: str) -> None:
        super().__init__(path, mode)
        self.disk = disk

    def write(self, data: Any) -> int:
        data, disk = bytes(data), self.disk
        if disk.used == disk.free and data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = super().write(data[: disk.free - disk.used])  # a full disk takes a part
        disk.writes.append((disk.used, disk.used + count, str(self.name)))
        disk.used += count
        return count


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(tmp_path)
    monkeypatch.setattr(io, "open", disk.open)
    monkeypatch.setattr(builtins, "open", disk.open)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow
    return disk


def files_of(folder: Path) -> Files:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fill(disk: Disk, write: Callable[[Path], object], root: Path) -> Iterator[tuple[Files, Files]]:
    """Call `write` once for each of its writes, on a disk that is full in the middle of it.

    Yields the files of the failed call and those of a call that has succeeded.
    """
    write(root / "all")
    complete, points = files_of(root / "all"), list(disk.writes)
    written = {Path(name).relative_to(root / "all") for _, _, name in points}
    assert set(complete) <= {str(path).removesuffix(".tmp") for path in written}
    assert points
    for number, (start, end, name) in enumerate(points):
        disk.restart((start + end) // 2)
        output = root / str(number)
        with pytest.raises(MpdiagError) as caught:
            write(output)
        file = str(output / Path(name).relative_to(root / "all")).removesuffix(".tmp")
        message = str(caught.value)
        assert re.match(rf"{re.escape(file)}: .*No space left on device, [\d,.]+ MiB free", message)
        assert "\n" not in message
        yield files_of(output), complete


def test_a_run_directory(
    disk: Disk, tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_run(tmp_path / "source", images=1, layers=1)
    with connect(source) as connection:
        aggregates = list(compute_aggregates(connection))  # slow to compute for every write
    monkeypatch.setattr(writer, "compute_aggregates", lambda connection: aggregates)
    summary = json.loads((source / "summary.json").read_text())
    monkeypatch.setattr(writer, "summarize", lambda connection: summary)
    header = json.loads((source / "run.json").read_text())
    tables = {table: pq.read_table(source / table) for table in TABLES}
    disk.writes.clear()
    disk.restart(sys.maxsize)

    def write(path: Path) -> None:
        run = RunWriter.create(path, header, resume=True)
        run.save_thumbnail(1, b"thumbnail")
        run.write_selected("masks", "part", tables["masks"])
        run.write_selected("attention", "part", tables["attention"])
        if not run.done:
            rows = (tables[name] for name in ("images", "targets", "queries", "detections"))
            run.write("part", *rows)
        run.finish()

    for number, (found, complete) in enumerate(fill(disk, write, tmp_path)):
        run = found.pop("run.json", b"")
        assert not run or json.loads(run)["finished"] is False
        assert found.items() <= complete.items()
        disk.restart(sys.maxsize)
        write(tmp_path / str(number))
        assert files_of(tmp_path / str(number)) == complete


def test_an_analysis_continues_when_there_is_space_again(
    disk: Disk,
    tmp_path: Path,
    small_checkpoint: LoadedCheckpoint,
    synthetic: SegmentationDataset,
) -> None:
    analyze(small_checkpoint, synthetic, tmp_path / "all", limit=2)
    complete, points = files_of(tmp_path / "all"), list(disk.writes)
    for folder in ("queries", "images"):
        start, end, _ = next(point for point in points if f"/{folder}/" in point[2])
        output = tmp_path / folder
        disk.restart((start + end) // 2)
        with pytest.raises(OutputError, match=rf"{folder}/.*: .*No space left.* MiB free"):
            analyze(small_checkpoint, synthetic, output, limit=2)
        disk.restart(sys.maxsize)
        analyze(small_checkpoint, synthetic, output, limit=2, resume=True)
        found = files_of(output)
        assert found.keys() == complete.keys()
        assert not [key for key in found if "json" not in key and found[key] != complete[key]]


def test_a_report(
    disk: Disk, tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "draw_curves", lambda table, kind: kind.encode() * 10_000)
    run = make_run(tmp_path / "run", images=1, layers=1)
    disk.writes.clear()
    disk.restart(sys.maxsize)
    for found, complete in fill(disk, lambda path: write_report([run], path), tmp_path):
        assert found.items() <= complete.items()


def test_a_comparison(disk: Disk, tmp_path: Path, make_run: MakeRun) -> None:
    runs = [Run.open(make_run(tmp_path / name, images=2, layers=1)) for name in "ab"]
    comparison = compare(*runs)
    disk.writes.clear()
    disk.restart(sys.maxsize)

    def write(path: Path) -> None:
        path.mkdir()
        for name in ("x.json", "x.csv"):
            write_comparison(comparison, path / name)

    for found, complete in fill(disk, write, tmp_path):
        assert found.items() <= complete.items()


def test_the_log_of_a_training(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path) -> None:
        path.mkdir()
        with FileLogger(path, TrainConfig(), 0, 0, Console(quiet=True)) as logger:
            for step in range(3):
                logger.log_step(step, {"loss_ce": 1.0})
            logger.log_evaluation(2, {"ap": 0.5})

    monkeypatch.setattr(time, "time_ns", lambda: 1)
    monkeypatch.setattr(time, "time", lambda: 1.0)
    monkeypatch.setattr(time, "perf_counter", lambda: 1.0)
    for found, complete in fill(disk, write, tmp_path):
        for name, data in found.items():
            assert complete[name].startswith(data)
            assert name != "metrics.json" or not data or data.endswith(b"\n")


def test_a_checkpoint(disk: Disk, tmp_path: Path, small_config: ModelConfig) -> None:
    model = Mask2Former(small_config)
    path = tmp_path / "last.pth"
    save_checkpoint(path, model)
    before, points = path.read_bytes(), list(disk.writes)
    assert len(points) > 5
    for start, end, _ in points[:: max(len(points) // 20, 1)] + points[-1:]:
        disk.restart((start + end) // 2)
        with pytest.raises(OutputError, match=r"last\.pth: .*No space left.* MiB free"):
            save_checkpoint(path, model, iteration=1)
        assert files_of(tmp_path) == {"last.pth": before}


def test_a_training_continues_when_there_is_space_again(
    disk: Disk, tmp_path: Path, synthetic_root: Path
) -> None:
    config = load_recipe("synthetic-tiny", [*SMALL, f"data.root={synthetic_root}"])
    quiet = Console(quiet=True)
    train(config, tmp_path / "all", console=quiet)
    last_write = {Path(name).name: (start + end) // 2 for start, end, name in disk.writes}
    for name in ("metrics.json", "model_final.pth.tmp"):
        output = tmp_path / name
        disk.restart(last_write[name])
        with pytest.raises(OutputError, match=re.escape(str(output / name.removesuffix(".tmp")))):
            train(config, output, console=quiet)
        assert not list(output.glob("*.tmp"))
        disk.restart(sys.maxsize)
        train(config, output, resume=True, console=quiet)
        lines = (output / "metrics.json").read_text().splitlines()
        assert [json.loads(line)["iteration"] for line in lines] == [0, 1]
        assert load_checkpoint(output).model is not None


def test_synthetic_data(disk: Disk, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    generate_synthetic(folder, train=1, val=1, size=32)
    assert disk.writes
    for start, end, _ in list(disk.writes):
        disk.restart((start + end) // 2)
        with pytest.raises(DataError, match=r"other: cannot be written \(No space left.* MiB free"):
            generate_synthetic(tmp_path / "other", train=1, val=1, size=32)
        assert [path.name for path in tmp_path.iterdir()] == ["data"]


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Let this process write no larger files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_limit_of_the_kernel(
    tmp_path: Path,
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make_run(tmp_path / "run", images=1, layers=1)
    monkeypatch.setattr(sys, "argv", ["mpdiag", "report", str(run), "--formats", "md"])
    with limited_file_size(4096), pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == ""
    (line,) = err.splitlines()
    assert re.match(r"error: \S+/report\.md: cannot be written \(File too large, .* MiB free", line)
    assert files_of(tmp_path / "run-report") == {}


def test_a_directory_that_cannot_be_created(
    tmp_path: Path,
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make_run(tmp_path / "run", images=1, layers=1)

    def mkdir(path: Any, *args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(os, "mkdir", mkdir)
    monkeypatch.setattr(sys, "argv", ["mpdiag", "report", str(run)])
    with pytest.raises(SystemExit) as stop:
        main()
    message = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == 2
    assert re.match(r"error: \S+/run-report: .*No space left on device, \S+ MiB free", message)


OTHER_WRITERS = {
    "mpdiag/checkpoints/transformers_directory.py",  # to a temporary directory
    "mpdiag/data/generated_folder.py",  # to a temporary directory
    "mpdiag/reproduce/scheduler.py",  # the output of the jobs
    "mpdiag/store/files.py",
    "trainers/packaged_weights.py",  # the packaged weights, in development
}


def test_all_files_are_written_atomically() -> None:
    found = set()
    for package in ("mpdiag", "reports", "trainers", "apps"):
        for path in (ROOT / package).rglob("*.py"):
            if any(map(_writes, ast.walk(ast.parse(path.read_text(encoding="utf-8"))))):
                found.add(str(path.relative_to(ROOT)))
    assert found == OTHER_WRITERS


def _writes(node: ast.AST) -> bool:
    """Return whether a node writes a file without `mpdiag.store.files`."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    modes = [x.value for x in (*node.args, *(k.value for k in node.keywords)) if _is_text(x)]
    if name == "open":
        return any(re.fullmatch(r"[rwaxbt+]*[wax+][rwaxbt+]*", mode) for mode in modes)
    return name in {"write_text", "write_bytes", "save_file", "SummaryWriter", "ParquetWriter"}


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
