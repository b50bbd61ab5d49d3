import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpdiag.errors import RunError
from mpdiag.store import Run, RunWriter
from mpdiag.store.schema import IMAGES, MASKS, QUERIES, TABLES, TARGETS

MakeRun = Callable[..., Path]


def content(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def header(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run / "run.json").read_text())
    return loaded


def part(run: Path, image_id: int) -> tuple[pa.Table, pa.Table, pa.Table]:
    """The rows of one image of a run: images, targets, queries."""
    only = [("image_id", "==", image_id)]
    images, targets, queries = (
        pq.read_table(run / folder, filters=only) for folder in ("images", "targets", "queries")
    )
    return images, targets, queries


def test_files_and_columns_of_a_run(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "deep" / "run", images=3)
    names = sorted(content(run))
    assert names == [
        "aggregates/image_layers.parquet",
        "aggregates/image_metrics.parquet",
        "aggregates/image_transitions.parquet",
        "attention/part-000.parquet",
        "detections/part-000.parquet",
        "images/part-000.parquet",
        "masks/part-000.parquet",
        "queries/part-000.parquet",
        "run.json",
        "summary.json",
        "targets/part-000.parquet",
        "thumbnails/1.jpg",
        "thumbnails/2.jpg",
        "thumbnails/3.jpg",
    ]
    for folder, schema in TABLES.items():
        assert pq.read_schema(run / folder / "part-000.parquet").equals(schema)
    assert header(run)["schema_version"] == 4
    assert header(run)["finished"] is True
    assert header(run)["timings"] == {"seconds": 1.5}


def test_finish_keeps_further_entries(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", finish=False)
    summary = RunWriter(run).finish(extra={"ap": [0.1, 0.2], "num_images": "not this"})
    assert summary == json.loads((run / "summary.json").read_text())
    assert summary["ap"] == [0.1, 0.2]
    assert summary["num_images"] == 4


def test_run_without_any_image_finishes(tmp_path: Path, make_run: MakeRun) -> None:
    run = Run.open(make_run(tmp_path / "run", images=0))
    assert run.num_layers == 0
    assert run.query("SELECT * FROM queries").empty


# --- errors of `create` --------------------------------------------------------------------


def refused(path: Path, given: dict[str, Any], message: str, **options: Any) -> None:
    before = content(path) if path.is_dir() else path.read_bytes()
    with pytest.raises(RunError) as error:
        RunWriter.create(path, given, **options)
    assert str(error.value) == f"{path}{message}"
    assert (content(path) if path.is_dir() else path.read_bytes()) == before


def test_refuses_a_file(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("text")
    refused(path, {}, " is a file; give a directory for the run")


def test_refuses_a_directory_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("text")
    refused(tmp_path, {}, " contains other files (thesis.tex); give an empty directory")


def test_refuses_broken_header(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema_version": 1, ')
    refused(tmp_path, {}, "/run.json: not readable as JSON; give another directory", resume=True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"checkpoint": {"path": "run/model_final.pth", "sha256": "f" * 64}}, "checkpoint.sha256"),
        ({"dataset": {"name": "coco"}}, "dataset.name"),
        ({"dataset": None}, "dataset.name"),
        ({"task": "panoptic"}, "task"),
        ({"part": "piloted"}, "part"),
        ({"settings": {"match_points": 100, "limit": None, "seed": 0}}, "settings"),
    ],
)
@pytest.mark.parametrize("finish", [True, False])
def test_refuses_another_run(
    tmp_path: Path, make_run: MakeRun, change: dict[str, Any], named: str, finish: bool
) -> None:
    run = make_run(tmp_path / "run", finish=finish)
    message = f" contains another run ({named} differs); give another directory"
    refused(run, {**header(run), **change}, message, resume=True)


def test_refuses_split_and_annotations_of_another(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", finish=False)
    for key in ("split", "annotation_file"):
        given = header(run)
        given["dataset"][key] = "other"
        message = f" contains another run (dataset.{key} differs); give another directory"
        refused(run, given, message, resume=True)


def test_refuses_unfinished_run_without_resume(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", finish=False)
    refused(run, header(run), " contains this run, unfinished; continue it with --resume")


def test_refuses_finished_run(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run")
    message = " is already finished; give another directory to run it again"
    refused(run, header(run), message)
    refused(run, header(run), message, resume=True)


def test_refuses_foreign_files_in_the_run(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", finish=False)
    (run / "notes.txt").write_text("text")
    message = " contains files that do not belong to the run (notes.txt); move them"
    refused(run, header(run), message, resume=True)


def test_refuses_a_folder_that_is_a_link(tmp_path: Path, make_run: MakeRun) -> None:
    run, other = make_run(tmp_path / "run", finish=False), tmp_path / "other"
    (run / "queries").rename(other)
    (run / "queries").symlink_to(other)
    (other / "foreign.parquet").write_bytes(b"")
    with pytest.raises(RunError, match="queries: is a link; give another directory"):
        RunWriter.create(run, header(run), resume=True)
    assert (other / "foreign.parquet").exists()


# --- resume --------------------------------------------------------------------------------


def test_starts_in_an_empty_directory_and_after_an_early_crash(tmp_path: Path) -> None:
    (tmp_path / "run.json.tmp").write_text('{"schema')
    assert RunWriter.create(tmp_path, {"name": "x"}).done == {}
    assert sorted(content(tmp_path)) == ["run.json"]


def test_settings_given_as_tuples_are_the_same_run(tmp_path: Path) -> None:
    RunWriter.create(tmp_path, {"settings": {"sizes": (1, 2)}})
    resumed = RunWriter.create(tmp_path, {"settings": {"sizes": (1, 2)}}, resume=True)
    assert header(resumed.path)["settings"] == {"sizes": [1, 2]}


def test_resume_skips_complete_images(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", images=5, shards=2, finish=False)
    assert RunWriter.create(run, header(run), resume=True).done.keys() == {1, 2, 3, 4, 5}
    files = pq.read_table(run / "images").sort_by("image_id")["file_name"].to_pylist()
    assert RunWriter(run).done == dict(enumerate(files, start=1))


@pytest.mark.parametrize("step", range(1, 4))
@pytest.mark.parametrize("where", ["before the rename", "before the file is whole"])
def test_killed_while_writing_a_part(
    tmp_path: Path,
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    where: str,
) -> None:
    """A run resumed after any step of writing image 4 is bit-identical to an uninterrupted run."""
    whole = make_run(tmp_path / "whole", images=4)
    path = tmp_path / "killed"
    first = RunWriter.create(path, header(whole))
    for image_id in (1, 2, 3):
        first.write(f"{image_id}", *part(whole, image_id))
    with monkeypatch.context() as patch:
        kill_at(patch, step, "fsync" if where == "before the file is whole" else "replace")
        with pytest.raises(KeyboardInterrupt):
            first.write("4", *part(whole, 4))
    assert any(name.endswith(".tmp") for name in content(path))

    resumed = RunWriter.create(path, header(whole), resume=True)
    assert resumed.done.keys() == {1, 2, 3}
    parts = sorted(name for name in content(path) if name.endswith(("parquet", "tmp")))
    assert parts == sorted(
        f"{folder}/{k}.parquet" for folder in ("queries", "targets", "images") for k in (1, 2, 3)
    )
    resumed.write("4", *part(whole, 4))
    resumed.finish()
    assert (path / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()


def kill_at(patch: pytest.MonkeyPatch, step: int, call: str) -> None:
    """Interrupt the write of file `step` at its rename, or at its fsync with half of its bytes."""
    counted = 0
    replace, fsync = Path.replace, os.fsync

    def counted_replace(self: Path, target: Path) -> Path:
        nonlocal counted
        counted += call == "replace"
        if counted == step:
            raise KeyboardInterrupt
        return replace(self, target)

    def counted_fsync(descriptor: int) -> None:
        nonlocal counted
        status = os.fstat(descriptor)
        counted += call == "fsync" and stat.S_ISREG(status.st_mode)
        if counted == step:
            os.ftruncate(descriptor, status.st_size // 2)
            raise KeyboardInterrupt
        fsync(descriptor)

    patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)  # the dead tidy nothing up
    patch.setattr(Path, "replace", counted_replace)
    patch.setattr(os, "fsync", counted_fsync)


def test_killed_between_summary_and_mark(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", finish=False)
    with monkeypatch.context() as patch:
        kill_at(patch, 2, "replace")
        with pytest.raises(KeyboardInterrupt):
            RunWriter(run).finish()
    with pytest.raises(RunError, match="is unfinished"):
        Run.open(run)
    RunWriter.create(run, header(run), resume=True).finish()
    assert Run.open(run).num_layers == 9


# --- errors of `write` ---------------------------------------------------------------------


def test_an_image_or_part_is_written_once(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", images=2, finish=False)
    writer = RunWriter(run)
    with pytest.raises(ValueError, match="part next: image 2 is written twice"):
        writer.write("next", *part(run, 2))
    empty = (IMAGES.empty_table(), TARGETS.empty_table(), QUERIES.empty_table())
    with pytest.raises(ValueError, match="part part-000 is already written"):
        writer.write("part-000", *empty)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, {})
    with pytest.raises(ValueError, match=r"\['counts', 'size'\] are missing or unknown"):
        writer.write_selected(
            "masks",
            "a",
            MASKS.empty_table().rename_columns([*MASKS.names[:6], "size", "change_score"]),
        )


def test_masks_are_replaced(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run")
    RunWriter(run).write_selected("masks", "part-000", MASKS.empty_table())
    assert Run.open(run).query("SELECT * FROM masks").empty
