"""Stored sums of a finished run against loops over the rows, and runs without them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mpdiag.store import Run, Thresholds

MakeRun = Callable[..., Path]


@pytest.fixture
def path(tmp_path: Path, make_run: MakeRun) -> Path:
    return make_run(tmp_path / "run", images=7, queries=5, layers=3, shards=3)


def test_sums_of_each_image_and_layer_equal_loops(path: Path) -> None:
    expected: dict[tuple[int, int], dict[str, float]] = {
        (image["image_id"], layer): {"iou": 0.0, "pairs": 0, "kept": 0, "gt": image["num_gt"]}
        for image in pq.read_table(path / "images").to_pylist()
        for layer in range(4)
    }
    for row in pq.read_table(path / "queries").to_pylist():
        if row["iou_prev"] is not None:
            expected[row["image_id"], row["layer"]]["iou"] += row["iou_prev"]
            expected[row["image_id"], row["layer"]]["pairs"] += 1
    for target in pq.read_table(path / "targets").to_pylist():
        queries = target["matched_query"]
        for layer, query in enumerate(queries):
            expected[target["image_id"], layer]["kept"] += query == queries[-1] >= 0
    found = {
        (row.pop("image_id"), row.pop("layer")): row
        for row in pq.read_table(path / "aggregates" / "image_layers.parquet").to_pylist()
    }
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        assert found[key] == pytest.approx(row, abs=1e-12)


def test_results_are_equal_without_aggregates(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "older")
    shutil.rmtree(tmp_path / "older" / "aggregates")
    run, older = Run.open(path), Run.open(tmp_path / "older")
    for name in ("image_layers", "image_transitions"):
        sql = f"SELECT * FROM {name} ORDER BY ALL"
        assert len(run.query(sql))
        assert run.query(sql).equals(older.query(sql))
    assert run.layers(resamples=5).equals(older.layers(resamples=5))
    assert run.transitions().equals(older.transitions())


def test_other_thresholds_use_the_rows(path: Path) -> None:
    run, other = Run.open(path), Run.open(path, Thresholds(kept_iou=0.01))
    kept = [
        table.loc[table["transition"] == "kept", "count"].sum()
        for table in (run.transitions(), other.transitions())
    ]
    assert kept[0] < kept[1]


def test_aggregates_do_not_depend_on_the_parts(
    path: Path, tmp_path: Path, make_run: MakeRun
) -> None:
    whole = Run.open(make_run(tmp_path / "whole", images=7, queries=5, layers=3))
    for name in ("image_layers", "image_transitions"):
        sql = f"SELECT * FROM {name} ORDER BY ALL"
        assert whole.query(sql).equals(Run.open(path).query(sql))
