import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpdiag.errors import RunError
from mpdiag.store import Run
from mpdiag.store.schema import COLUMNS, MASKS

MakeRun = Callable[..., Path]


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(path: Path, message: str) -> None:
    with pytest.raises(RunError) as error:
        Run.open(path)
    assert str(error.value) == f"{path}{message}"


# --- errors of `open` ----------------------------------------------------------------------


def test_refuses_other_directories(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", " does not exist; give the directory of a run")
    refused(tmp_path / ("x" * 300), " is not readable (File name too long); check it")
    refused(tmp_path, " has no run.json; give the directory of a run")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", " has no run.json; give the directory of a run")


@pytest.mark.parametrize("text", ['{"schema_version": 1', "", "\x00"])
def test_refuses_broken_json(tmp_path: Path, make_run: MakeRun, text: str) -> None:
    run = make_run(tmp_path / "run", images=1)
    for name, content in (
        ("summary.json", text.encode()),
        ("run.json", text.encode()),
        ("run.json", b"\xff\xfe"),
    ):
        (run / name).write_bytes(content)
        with pytest.raises(
            RunError, match=rf"/{name} is not readable as JSON \(.*\); analyse again"
        ):
            Run.open(run)
    (run / "run.json").write_text("[1]")
    refused(run, "/run.json is not a JSON object; analyse again")


def test_refuses_a_newer_schema(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", images=1)
    edit(run / "run.json", schema_version=5)
    refused(run, " has schema_version 5, but this mpdiag reads versions up to 4; update mpdiag")
    edit(run / "run.json", schema_version=None)
    refused(run, "/run.json has no schema_version; give a run of mpdiag")


def test_refuses_an_unfinished_run(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", finish=False)
    refused(run, " is unfinished; continue it with mpdiag analyze ... --resume")


def test_refuses_a_summary_that_lacks_values(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", images=2, layers=2)
    message = "/summary.json lacks values; analyse again"
    layers = json.loads((run / "summary.json").read_text())["layers"]
    without_util = [{k: v for k, v in layer.items() if k != "util"} for layer in layers]
    as_text = [{**layer, "miou_l": "<b>"} for layer in layers]
    for changes in (
        {"layers": without_util},
        {"layers": as_text},
        {"layers": layers[:1]},
        {"layers": 3},
        {"layers": [1, 2]},
        {"layers": layers, "num_images": None},
    ):
        edit(run / "summary.json", **changes)
        refused(run, message)
    (run / "summary.json").unlink()
    refused(run, " has no summary.json; analyse again")


def test_names_a_broken_parquet_file(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run")
    (run / "queries" / "part-000.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(RunError, match=r"has an unreadable Parquet file .*part-000"):
        Run.open(run)


def test_a_run_of_version_1_opens_with_null_columns(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run", images=4, shards=2)
    for folder, columns in COLUMNS.items():
        added = [column.name for column in columns if column.since > 1]
        for file in (path / folder).glob("*.parquet"):
            pq.write_table(pq.read_table(file).drop_columns(added), file)
    edit(path / "run.json", schema_version=1)
    run = Run.open(path)
    rows = run.query("SELECT count(margin) margin, count(area) area FROM queries")
    assert rows.iloc[0].tolist() == [0, 4 * 10 * 6]
    assert run.query("SELECT best_query_iou FROM targets")["best_query_iou"].isna().all()
    assert run.query("SELECT layer FROM detections")["layer"].isna().all()


# --- reading -------------------------------------------------------------------------------


def test_name_and_layers(tmp_path: Path, make_run: MakeRun) -> None:
    run = Run.open(make_run(tmp_path / "run", layers=3, name="Baseline"))
    assert (run.name, run.num_layers) == ("Baseline", 3)
    assert run.header["task"] == "instance"
    edit(tmp_path / "run" / "run.json", name=None)
    assert Run.open(tmp_path / "run").name == "run"


@pytest.mark.parametrize("name", ["plain", "image_id=7", "it's [x]*?", "tab\tand ünïcode"])
def test_rows_through_sql_in_any_directory(tmp_path: Path, make_run: MakeRun, name: str) -> None:
    run = Run.open(make_run(tmp_path / name, images=5, queries=4, layers=2, shards=2))
    counted = run.query("SELECT count(*) AS n FROM queries WHERE image_id = ?", [3])
    assert counted["n"].tolist() == [4 * 3]
    for table in ("queries", "targets", "images", "masks"):
        columns = run.query(f"SELECT * FROM {table} LIMIT 0").columns
        expected = pq.read_schema(tmp_path / name / table / "part-000.parquet").names
        assert list(columns) == expected


def test_tables_without_files_are_empty(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run", images=2)
    (path / "masks" / "part-000.parquet").unlink()
    run = Run.open(path)
    rows = run.query("SELECT * FROM masks")
    assert rows.empty
    assert list(rows.columns) == MASKS.names
    assert run.gt_masks(2).shape == (0, 0, 0)


def test_masks_agree_with_the_rows(tmp_path: Path, make_run: MakeRun) -> None:
    run = Run.open(make_run(tmp_path / "run", layers=4))
    sql = "SELECT * FROM queries WHERE image_id = 4 AND query = 2 ORDER BY layer"
    rows = run.query(sql)
    masks, gt = run.masks(4, 2), run.gt_masks(4)
    assert masks.shape == (5, 24, 32)
    assert masks.dtype == gt.dtype == np.bool_
    assert masks.sum((1, 2)).tolist() == rows["area"].tolist()
    assert (masks[1:] & masks[:-1]).sum((1, 2)).tolist() == rows["intersection_prev"][1:].tolist()
    areas = run.query("SELECT area FROM targets WHERE image_id = 4 ORDER BY gt")["area"]
    assert gt.sum((1, 2)).tolist() == areas.tolist()


def test_masks_that_are_not_stored(tmp_path: Path, make_run: MakeRun) -> None:
    run = Run.open(make_run(tmp_path / "run"))
    message = r"has no masks of image 4, query 77; analyse with --save-masks all"
    with pytest.raises(RunError, match=message):
        run.masks(4, 77)


def test_broken_mask_is_named(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run", layers=2)
    file = path / "masks" / "part-000.parquet"
    table = pq.read_table(file)
    small = pa.array([3] * len(table), pa.int32())
    pq.write_table(table.set_column(table.schema.get_field_index("height"), "height", small), file)
    with pytest.raises(RunError, match="a mask of image 4 is invalid; analyse again"):
        Run.open(path).gt_masks(4)


def test_threads_may_share_a_run(tmp_path: Path, make_run: MakeRun) -> None:
    run = Run.open(make_run(tmp_path / "run"))
    results: list[int] = []

    def ask() -> None:
        for _ in range(20):
            results.append(int(run.query("SELECT count(*) AS n FROM queries")["n"][0]))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [4 * 6 * 10] * 80


# --- access to files -----------------------------------------------------------------------


def test_image_is_the_thumbnail_or_else_the_file(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run", dataset={"image_root": str(tmp_path / "images")})
    run = Run.open(path)
    assert run.image(2) == path / "thumbnails" / "2.jpg"
    (path / "thumbnails" / "2.jpg").unlink()
    with pytest.raises(RunError, match=r"000002\.jpg is not in .*; analyse again where"):
        run.image(2)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "000002.jpg").write_bytes(b"")
    assert run.image(2) == tmp_path / "images" / "000002.jpg"
    with pytest.raises(RunError, match="has no image 99"):
        run.image(99)


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "link.jpg"])
def test_image_is_inside_the_data_set(tmp_path: Path, make_run: MakeRun, name: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    path = make_run(tmp_path / "run", dataset={"image_root": str(tmp_path / "images")})
    (path / "thumbnails" / "1.jpg").unlink()
    (path / "thumbnails" / "1.jpg").symlink_to(tmp_path / "secret.jpg")
    file = path / "images" / "part-000.parquet"
    table = pq.read_table(file)
    names = pa.array([name] * len(table))
    pq.write_table(
        table.set_column(table.schema.get_field_index("file_name"), "file_name", names), file
    )
    with pytest.raises(RunError, match="has no thumbnail of image 1"):
        Run.open(path).image(1)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{outside}')",
        "SELECT * FROM read_text('{run}/../outside.txt')",
        "SELECT * FROM read_csv('{outside}')",
        "SELECT * FROM glob('{outside}')",
        "COPY (SELECT 1) TO '{outside}.csv'",
        "ATTACH '{outside}.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
    ],
)
def test_sql_reads_no_other_files(tmp_path: Path, make_run: MakeRun, sql: str) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("secret")
    run = Run.open(make_run(tmp_path / "run", images=1))
    with pytest.raises(RunError, match="the query failed"):
        run.query(sql.format(outside=outside, run=run.path))
    assert sorted(tmp_path.iterdir()) == [outside, tmp_path / "run"]


def test_parameters_are_values(tmp_path: Path, make_run: MakeRun) -> None:
    run = Run.open(make_run(tmp_path / "run"))
    hostile = "'; DROP VIEW images; --"
    assert run.query("SELECT * FROM images WHERE file_name = ?", [hostile]).empty
    assert len(run.query("SELECT * FROM images")) == 4


@pytest.mark.parametrize("part", ["part-000", "part [a]*?' || 'x", "part.b"])
def test_query_of_one_image_reads_its_part(tmp_path: Path, make_run: MakeRun, part: str) -> None:
    path = make_run(tmp_path / "run", images=6, shards=2)
    for folder in ("queries", "targets", "images", "detections"):
        (path / folder / "part-000.parquet").rename(path / folder / f"{part}.parquet")
    run = Run.open(path)
    for table in ("queries", "targets", "images", "detections"):
        every = run.query(f"SELECT * FROM {table} ORDER BY ALL")
        ids = f"SELECT DISTINCT image_id FROM {table} ORDER BY image_id"
        assert run.query(ids, image_id=1)["image_id"].isin([1, 3, 5]).all()
        for image_id in range(1, 7):
            sql = f"SELECT * FROM {table} WHERE image_id = ? ORDER BY ALL"
            found = run.query(sql, [image_id], image_id=image_id)
            expected = every[every["image_id"] == image_id].reset_index(drop=True)
            assert found.equals(expected)
        assert run.query(f"SELECT * FROM {table} ORDER BY ALL").equals(every)
    assert run.query("SELECT * FROM queries WHERE image_id = 99", image_id=99).empty
