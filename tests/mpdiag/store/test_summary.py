"""The summary against a brute-force computation in pandas and numpy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpdiag.errors import RunError
from mpdiag.store.schema import TABLES
from mpdiag.store.summary import summarize

MakeRun = Callable[..., Path]
Database = Callable[..., duckdb.DuckDBPyConnection]


def rows(run: Path, folder: str) -> pd.DataFrame:
    return pd.concat([pq.read_table(part).to_pandas() for part in (run / folder).glob("*.parquet")])


def brute_force(run: Path) -> dict[str, Any]:
    queries, images, targets = (rows(run, name) for name in ("queries", "images", "targets"))
    num_layers = int(queries["layer"].max())
    last = queries[(queries["layer"] == num_layers) & (queries["matched_gt"] != -1)]
    matched = set(zip(last["image_id"], last["query"], strict=True))
    # Util from the assignment itself, not from the column that the summary averages.
    util: dict[int, list[float]] = {layer: [] for layer in range(num_layers + 1)}
    for _, objects in targets.groupby("image_id"):
        assigned = np.stack(objects["matched_query"].tolist())
        for layer in util:
            same = (assigned[:, layer] == assigned[:, -1]) & (assigned[:, layer] != -1)
            util[layer].append(float(same.mean()))
    layers = []
    for layer in range(1, num_layers + 1):
        pairs = queries[queries["layer"] == layer]
        iou = pairs["iou_prev"]
        of_matched = [
            (image, query) in matched
            for image, query in zip(pairs["image_id"], pairs["query"], strict=True)
        ]
        layers.append(
            {
                "layer": layer,
                "miou_l": iou.dropna().mean(),
                "miou_l_empty0": iou.fillna(0.0).mean(),
                "miou_l_empty1": iou.fillna(1.0).mean(),
                "miou_l_matched": iou[of_matched].dropna().mean(),
                "empty_pairs": iou.isna().mean(),
                "util": np.mean(util[layer]),
            }
        )
    return {
        "num_images": len(images),
        "num_gt": len(targets),
        "num_queries": queries["query"].nunique(),
        "num_layers": num_layers,
        "layers": layers,
        "util_m0": np.mean(util[0]),
    }


@pytest.mark.parametrize(("layers", "seed"), [(9, 0), (3, 1), (1, 2)])
def test_summary_equals_brute_force(
    tmp_path: Path, make_run: MakeRun, layers: int, seed: int
) -> None:
    run = make_run(tmp_path / "run", images=9, queries=7, layers=layers, seed=seed, shards=2)
    summary = json.loads((run / "summary.json").read_text())
    expected = brute_force(run)
    for key in ("num_images", "num_gt", "num_queries", "num_layers"):
        assert summary[key] == expected[key]
    assert summary["schema_version"] == 4
    assert summary["util_m0"] == pytest.approx(expected["util_m0"], abs=1e-12)
    assert len(summary["layers"]) == layers
    for found, wanted in zip(summary["layers"], expected["layers"], strict=True):
        of_paper = {key: found[key] for key in wanted}
        assert of_paper == pytest.approx(wanted, abs=1e-12)
        assert 0 < found["empty_pairs"] + found["miou_l"] < 1


@pytest.mark.parametrize("shards", [2, 5, 13])
def test_layout_of_the_parts_changes_no_bit(tmp_path: Path, make_run: MakeRun, shards: int) -> None:
    whole = make_run(tmp_path / "whole", images=13)
    split = make_run(tmp_path / "split", images=13, shards=shards)
    assert (split / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()


def test_order_and_threads_change_no_bit(
    tmp_path: Path, make_run: MakeRun, database: Database
) -> None:
    run = make_run(tmp_path / "run", images=9)
    summaries = []
    for seed in range(5):
        content = {
            name: pa.Table.from_pandas(rows(run, name).sample(frac=1, random_state=seed), schema)
            for name, schema in TABLES.items()
        }
        connection = database(content)
        connection.execute(f"SET threads = {1 + seed % 4}")
        summaries.append(summarize(connection))
    assert summaries == [json.loads((run / "summary.json").read_text())] * 5


def test_sums_are_exact(database: Database) -> None:
    """The floating-point sum of these values depends on their order."""
    ious = [0.1] * 10 + [1.0] + [1e-9] * 7
    results = {
        json.dumps(summarize_ious(database, order)) for order in (ious, ious[::-1], sorted(ious))
    }
    assert len(results) == 1
    assert json.loads(results.pop())["layers"][0]["miou_l"] == pytest.approx(
        float(np.longdouble(np.array(ious)).mean()), abs=1e-15
    )


def test_conventions_by_hand(database: Database) -> None:
    layer = summarize_ious(database, [0.25, None, 0.75, None], matched=(0, 1))["layers"][0]
    expected = {
        "layer": 1,
        "miou_l": 0.5,
        "miou_l_empty0": 0.25,
        "miou_l_empty1": 0.75,
        "miou_l_matched": 0.25,
        "empty_pairs": 0.5,
        "util": None,
    }
    assert {key: layer[key] for key in expected} == expected


def test_nothing_to_average_is_none(database: Database) -> None:
    layer = summarize_ious(database, [None, None])["layers"][0]
    assert layer["miou_l"] is None
    assert layer["miou_l_matched"] is None
    assert (layer["miou_l_empty0"], layer["miou_l_empty1"], layer["empty_pairs"]) == (0, 1, 1)


def test_pairs_with_a_non_finite_mask_do_not_count(database: Database) -> None:
    rows = [(0, 0, 4, None, None), (1, 0, 4, 4, 0.5), (0, 1, 4, None, None), (1, 1, None, 4, None)]
    names = ("layer", "query", "area", "area_prev", "iou_prev")
    queries = [{"image_id": 1, "matched_gt": -1, **dict(zip(names, r, strict=True))} for r in rows]
    with database({"queries": queries, "images": [{"image_id": 1, "num_gt": 0}]}) as connection:
        summary = summarize(connection)
    assert summary["non_finite"] == 1
    assert summary["layers"][0]["miou_l_empty0"] == 0.5 and summary["layers"][0]["empty_pairs"] == 0


def test_no_rows_at_all(database: Database) -> None:
    with database({}) as connection:
        summary = summarize(connection)
    assert summary["num_images"] == summary["num_layers"] == 0
    assert summary["layers"] == []
    assert summary["util_m0"] is None


def test_an_image_in_two_parts_is_refused(database: Database) -> None:
    images = [{"image_id": 5, "num_gt": 0, "util": []}] * 2
    with (
        database({"images": images}) as connection,
        pytest.raises(RunError, match=r"^image 5 is in more than one part of the run; "),
    ):
        summarize(connection)


def summarize_ious(
    database: Database, ious: list[float | None], matched: tuple[int, ...] = ()
) -> dict[str, Any]:
    """The summary of one image without GT and one layer, with one query per IoU."""
    queries = [
        {"image_id": 1, "layer": layer, "query": n, "iou_prev": iou if layer else None}
        | {"area": 4, "area_prev": 4 if layer else None}
        | {"matched_gt": 0 if n in matched else -1}
        for n, iou in enumerate(ious)
        for layer in (0, 1)
    ]
    images = [{"image_id": 1, "num_gt": 0, "util": []}]
    with database({"queries": queries, "images": images}) as connection:
        return summarize(connection)
