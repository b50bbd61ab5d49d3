"""Damaged and hostile run directories: a run opens, or its error is one RunError."""

import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from apps.runs import open_runs
from mpdiag import rle
from mpdiag.errors import MpdiagError, RunError
from mpdiag.export.detections import categories, detected_images
from mpdiag.store import Run, RunWriter
from mpdiag.store.run import MAX_NAME

from .mutations import check_error, mutate_bytes, mutate_tree, seeds

SHARES = 4
PART = "part-000.parquet"

EditTable = Callable[[pa.Table], pa.Table]


@pytest.fixture
def run(make_run: Callable[..., Path], tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", images=3, queries=3, layers=2)


def edit_json(run: Path, file: str, /, **values: Any) -> None:
    content = json.loads((run / file).read_text())
    (run / file).write_text(json.dumps(content | values))


def edit_table(run: Path, table: str, edit: EditTable) -> None:
    file = run / table / PART
    pq.write_table(edit(pq.read_table(file)), file)


def with_column(table: pa.Table, name: str, value: Any) -> pa.Table:
    """Return the table with all values of a column replaced."""
    place = table.schema.get_field_index(name)
    values = pa.array([value] * len(table), table.schema.field(name).type)
    return table.set_column(place, name, values)


def use(path: Path, rng: random.Random) -> None:
    """Open a run, and use a random part of what it offers."""
    run = Run.open(path)
    assert run.name.isprintable() and len(run.name) <= MAX_NAME
    queries: tuple[Callable[[], object], ...] = (
        lambda: run.layer_metrics(intervals=True, resamples=3),
        lambda: run.layers("class", resamples=3),
        run.transitions,
    )
    reads: tuple[Callable[[], object], ...] = (
        lambda: run.gt_masks(3),
        lambda: run.image(1),
        lambda: run.masks(1, 1),
        lambda: run.attention(1, 1),
    )
    for read in (rng.choice(queries), *reads):
        try:
            read()
        except MpdiagError as error:
            check_error(error)


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (-3, -4), (0, 1)])
def test_sizes_of_masks_are_compared_with_the_image(
    run: Path, size: tuple[int, int], one_gib: None
) -> None:
    for table in ("masks", "attention"):
        for name, value in zip(("height", "width"), size, strict=True):
            edit_table(
                run, table, lambda rows, name=name, value=value: with_column(rows, name, value)
            )
    opened = Run.open(run)
    with pytest.raises(RunError, match=r"masks: a mask of image 1 is invalid; analyse again"):
        opened.masks(1, 0)
    with pytest.raises(RunError, match=r"attention: image 1, query 0 is invalid"):
        opened.attention(1, 0)


def test_masks_as_large_as_a_huge_image(run: Path, one_gib: None) -> None:
    sides = {"height": 65_535, "width": 2_730}  # the largest image
    for table, prefix in (("masks", ""), ("images", "input_")):
        for key, side in sides.items():
            edit_table(run, table, partial(with_column, name=prefix + key, value=side))
    with pytest.raises(RunError, match="a mask of image 1 is invalid"):
        Run.open(run).masks(1, 0)


@pytest.mark.parametrize("table", ["masks", "detections"])
def test_long_counts_in_a_small_file(run: Path, table: str, one_gib: None) -> None:
    counts = b"0" * 60_000_000
    edit_table(run, table, lambda rows: with_column(rows[:1], "counts", counts))
    opened = Run.open(run)
    with pytest.raises(RunError, match="invalid"):
        if table == "masks":
            opened.masks(1, 0)
        else:
            list(detected_images(opened, [2]))


@pytest.mark.parametrize("table", ["masks", "detections"])
def test_many_rows_of_long_counts_in_a_small_file(run: Path, table: str, one_gib: None) -> None:
    """Each mask has one run per cell, as a chessboard of the size of the image."""
    image = {"image_id": 1, "height": 2000, "width": 2000}
    for key, value in image.items():
        edit_table(run, table, partial(with_column, name=key, value=value))
    for key in ("height", "width", "input_height", "input_width"):
        edit_table(run, "images", partial(with_column, name=key, value=2000))
    edit_table(run, table, partial(with_column, name="counts", value=b"1" * 4_000_000))
    equal_rows(run, table, 20)
    assert (run / table / PART).stat().st_size < 40_000
    opened = Run.open(run)
    with pytest.raises(RunError, match=f"{table}: the masks of image 1 are too large"):
        if table == "masks":
            (query,) = set(opened.query("SELECT index FROM masks")["index"])
            opened.masks(1, int(query))
        else:
            list(detected_images(opened, [2]))


@pytest.mark.parametrize("counts", [b"", b"1", b"11", b"\xff\xff", b"o" * 50, b"P" * 9, b"0o0"])
def test_run_lengths_that_do_not_fill_the_mask(counts: bytes) -> None:
    with pytest.raises(ValueError):
        rle.decode(counts, 500, 700)


@pytest.mark.parametrize("name", ["run.json", "summary.json"])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 70 + "1" + "}" * 70, '{"a": ' + "9" * 5000 + "}", "\xff", "1"]
)
def test_json_beyond_the_limits(run: Path, name: str, text: str) -> None:
    (run / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=rf"{name} is not"):
        Run.open(run)
    if name == "run.json":
        with pytest.raises(RunError, match=r"run\.json: not readable as JSON"):
            RunWriter.create(run, {}, resume=True)


def test_the_dashboard_shows_the_other_runs(make_run: Callable[..., Path], tmp_path: Path) -> None:
    paths = [make_run(tmp_path / name, images=2, queries=2, layers=2) for name in "abcd"]
    (paths[0] / "run.json").write_text("[" * 100_000)
    (paths[2] / "images" / PART).write_bytes(b"PAR1")
    runs, errors = open_runs([str(path) for path in (*paths, tmp_path / "missing")])
    assert [run.run.path for run in runs] == [paths[1], paths[3]]
    assert len(errors) == 3


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("summary.json", {"m0": [1]}),
        ("summary.json", {"query_use": 5}),
        ("summary.json", {"ap": {"ap": "x"}}),
        ("summary.json", {"layer_scores": {"layer": 1}}),
        ("summary.json", {"query_use": {}}),
        ("summary.json", {"query_use": {"matches": 3, "dead": 0}}),
        ("summary.json", {"ap": {"ap": [0.5]}}),
        ("summary.json", {"layer_scores": [{"layer": 1, "ap": 0.5}]}),
        ("summary.json", {"layers": [{"miou_l": 1, "util": 1}] * 2}),
        ("summary.json", {"layers": [{"layer": x, "miou_l": 1, "util": {}} for x in (1, 2)]}),
        ("summary.json", {"layers": [{"layer": x, "miou_l": 1, "util": [1]} for x in (1, 2)]}),
        ("summary.json", {"layers": [{"layer": 1, "miou_l": 1, "util": 1}] * 2}),
        ("summary.json", {"num_images": -1}),
        ("summary.json", {"num_queries": True}),
    ],
)
def test_values_of_wrong_types(run: Path, name: str, values: dict[str, Any]) -> None:
    edit_json(run, name, **values)
    with pytest.raises(RunError, match=rf"{name} lacks values; analyse again"):
        Run.open(run)


@pytest.mark.parametrize(
    ("table", "edit", "message"),
    [
        ("queries", lambda rows: with_column(rows, "layer", 7), "the layers of queries"),
        ("queries", lambda rows: with_column(rows, "layer", -1), "the layers of queries"),
        ("queries", lambda rows: rows[:0], "the layers of queries"),
        ("queries", lambda rows: with_column(rows, "image_id", 99), "an unknown image"),
        ("targets", lambda rows: with_column(rows, "image_id", None), "an unknown image"),
        ("images", lambda rows: with_column(rows, "image_id", 1), "more than one part"),
        ("images", lambda rows: rows[:0], "0 rows of images"),
        ("images", lambda rows: with_column(rows, "width", 70_000), "an image is larger than an"),
        ("images", lambda rows: with_column(rows, "input_height", 2**31 - 1), "an image is larger"),
        ("queries", lambda rows: pa.concat_tables([rows] * 2), "54 rows of queries"),
        ("masks", lambda rows: pa.concat_tables([rows] * 2), "rows of masks"),
        # The metrics join the rows of a query in two layers: equal rows would multiply.
        ("queries", lambda rows: with_column(rows, "image_id", 1), "a query is listed twice"),
        ("queries", lambda rows: with_column(rows, "query", 2), "a query is listed twice"),
        ("queries", lambda rows: with_column(rows, "query", None), "an unknown query"),
        ("queries", lambda rows: with_column(rows, "query", 3), "an unknown query"),
        ("queries", lambda rows: with_column(rows, "query", -1), "an unknown query"),
        ("targets", lambda rows: with_column(rows, "image_id", 1), "a gt is listed twice"),
        ("targets", lambda rows: with_column(rows, "gt", None), "an unknown gt"),
        ("targets", lambda rows: with_column(rows, "gt", -1), "an unknown gt"),
        ("detections", lambda rows: pa.concat_tables([rows] * 40), "more than 100 detections in"),
        ("targets", lambda rows: with_column(rows, "matched_query", [0] * 9), "more than 3 values"),
        ("images", lambda rows: with_column(rows, "util", [0.5] * 9), "more than 3 values"),
    ],
)
def test_rows_that_do_not_fit_the_summary(
    run: Path, table: str, edit: EditTable, message: str
) -> None:
    edit_table(run, table, edit)
    with pytest.raises(RunError, match=rf"run is damaged \(.*{message}.*\); analyse again"):
        Run.open(run)


@pytest.mark.parametrize("label", [3, -1, 2**31 - 1, None])
def test_labels_out_of_range(run: Path, label: int | None) -> None:
    edit_table(run, "targets", lambda rows: with_column(rows, "label", label))
    with pytest.raises(RunError, match=r"a GT has a label that is not in run\.json"):
        Run.open(run).layers("class")


@pytest.mark.parametrize("category_id", ["Infinity", "NaN", "null", '"x"'])
def test_category_id_that_is_no_number(run: Path, category_id: str) -> None:
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(re.sub(r'("category_id": )\d+', rf"\g<1>{category_id}", text))
    with pytest.raises(RunError, match=r"run\.json has no classes"):
        categories(Run.open(run))


def test_extra_part(run: Path) -> None:
    for table in ("images", "queries"):
        shutil.copy(run / table / PART, run / table / "part-001.parquet")
    with pytest.raises(RunError, match="6 rows of images do not fit"):
        Run.open(run)


def equal_rows(run: Path, table: str, count: int) -> None:
    """Replace the rows of a table by copies of its first row, which takes few bytes a row."""
    file = run / table / PART
    one = pq.read_table(file)[:1]
    rows = pc.take(one.combine_chunks(), pa.array(np.zeros(count, np.int64)))
    pq.write_table(rows, file, compression="zstd")


@pytest.mark.parametrize("table", ["queries", "targets", "masks", "detections"])
def test_a_million_equal_rows(run: Path, table: str, one_gib: None) -> None:
    equal_rows(run, table, 1_000_000)
    started = time.process_time()
    with pytest.raises(RunError, match=f"1,000,000 rows of {table} do not fit"):
        Run.open(run)
    assert time.process_time() - started < 5


def test_queries_of_all_numbers_are_different(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    """The check counts in blocks of 64."""
    run = make_run(tmp_path / "run", images=2, queries=130, layers=2)
    assert Run.open(run).summary["num_queries"] == 130

    def copy_last(rows: pa.Table) -> pa.Table:
        numbers = rows["query"].to_numpy().copy()
        numbers[129] = 64
        return rows.set_column(2, "query", pa.array(numbers, pa.int16()))

    edit_table(run, "queries", copy_last)
    with pytest.raises(RunError, match="a query is listed twice in queries"):
        Run.open(run)


def test_named_pipe_as_part(run: Path) -> None:
    (run / "masks" / PART).unlink()
    os.mkfifo(run / "masks" / PART)
    with pytest.raises(RunError, match="is not a regular file"):
        Run.open(run)


def test_long_name(run: Path) -> None:
    edit_json(run, "run.json", name="x\x1b" * 50_000)
    (loaded,), errors = open_runs([str(run)])
    assert not errors and loaded.run.name.isprintable()
    assert len(loaded.run.name) <= MAX_NAME and len(loaded.slug) < 200


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "loop", "../secret"])
def test_image_file_that_cannot_exist(run: Path, tmp_path: Path, name: str) -> None:
    shutil.rmtree(run / "thumbnails")
    edit_json(run, "run.json", dataset={"image_root": str(tmp_path)})
    (tmp_path / "loop").symlink_to("loop")
    edit_table(run, "images", lambda rows: with_column(rows, "file_name", name))
    with pytest.raises(RunError, match="has no thumbnail of image 1"):
        Run.open(run).image(1)


def test_damaged_part_of_an_unfinished_run(make_run: Callable[..., Path], tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", images=2, queries=2, layers=2, finish=False)
    header = json.loads((path / "run.json").read_text())
    (path / "images" / PART).write_bytes(b"PAR1" * 20)
    with pytest.raises(RunError, match=r"part-000\.parquet: cannot be read"):
        RunWriter.create(path, header, resume=True)


@pytest.mark.parametrize("share", range(SHARES))
def test_mutated_runs(run: Path, share: int) -> None:
    files = sorted(path for path in run.rglob("*") if path.suffix in (".json", ".parquet"))
    originals = {path: path.read_bytes() for path in files}
    for seed in seeds(180, share, SHARES):
        rng = random.Random(seed)
        path = rng.choice(files if rng.random() < 0.6 else files[-2:])
        data = originals[path]
        if path.suffix == ".json" and rng.random() < 0.8:
            path.write_text(json.dumps(mutate_tree(json.loads(data), rng)))
        else:
            path.write_bytes(mutate_bytes(data, rng))
        started = time.process_time()
        try:
            use(run, rng)
        except MpdiagError as error:
            check_error(error)
        except Exception as error:
            raise AssertionError(f"seed {seed}, {path.relative_to(run)}") from error
        assert time.process_time() - started < 5, seed
        path.write_bytes(data)
