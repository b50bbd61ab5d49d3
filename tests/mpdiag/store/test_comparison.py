"""Paired differences against single runs, and runs that cannot be compared."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mpdiag.errors import RunError
from mpdiag.store import LAYER_METRICS, Run, compare

MakeRun = Callable[..., Path]


def two(tmp_path: Path, make_run: MakeRun) -> tuple[Run, Run]:
    """Two runs over the same images and GT; the second does not change a third of its masks."""
    paths = [make_run(tmp_path / name, images=12, layers=3, shards=2) for name in "ab"]
    for file in (paths[1] / "queries").glob("*.parquet"):
        table = pq.read_table(file).to_pylist()
        for row in table:
            if row["query"] % 3 == 0 and row["iou_prev"] is not None:
                row["iou_prev"] = 1.0
        pq.write_table(pq.read_table(file).from_pylist(table, pq.read_schema(file)), file)
    shutil.rmtree(paths[1] / "aggregates")  # sums of the old rows
    scores = ({"ap": 0.25, "ap50": None}, {"ap": 0.5, "ap50": 0.75})
    for path, ap in zip(paths, scores, strict=True):
        summary = json.loads((path / "summary.json").read_text())
        (path / "summary.json").write_text(json.dumps({**summary, "ap": ap}))
    return Run.open(paths[0]), Run.open(paths[1])


def test_differences_are_those_of_the_runs(tmp_path: Path, make_run: MakeRun) -> None:
    a, b = two(tmp_path, make_run)
    found = compare(a, b)
    assert (found.a, found.b, found.images) == ("a", "b", 12)
    of_runs = a.layers(), b.layers()
    all_metrics = a.layer_metrics(), b.layer_metrics()
    for row in found.layers.itertuples():
        expected = [table.loc[row.layer, row.metric] for table in all_metrics]
        assert [row.a, row.b] == pytest.approx(expected, abs=1e-12, nan_ok=True)
        if row.metric in ("miou_l", "util"):
            values = [table.loc[row.layer, row.metric] for table in of_runs]
            assert [row.a, row.b] == values
            assert row.difference == values[1] - values[0]
    assert list(found.layers["metric"].unique()) == list(LAYER_METRICS)
    miou = found.layers[found.layers["metric"] == "miou_l"]
    assert miou["layer"].tolist() == [1, 2, 3]
    assert (miou["low"] > 0).all() and (miou["high"] > miou["difference"]).all()
    util = found.layers[found.layers["metric"] == "util"]
    assert util["layer"].tolist() == [0, 1, 2, 3]
    assert not util[["difference", "low", "high"]].to_numpy().any()
    assert found.scores.to_dict("records") == [
        {"score": "ap", "a": 0.25, "b": 0.5, "difference": 0.25}
    ]


def test_different_settings_are_listed(tmp_path: Path, make_run: MakeRun) -> None:
    a, b = two(tmp_path, make_run)
    assert compare(a, b).settings == {}
    processor = {"size": {"height": 384, "width": 384}}
    made = (
        (a, {"method": "baseline", "settings": {"limit": None, "image_processor": processor}}),
        (b, {"method": "piloted", "settings": {"limit": 8, "intervene": "class"}}),
    )
    for run, changes in made:
        header = {**json.loads((run.path / "run.json").read_text()), **changes}
        (run.path / "run.json").write_text(json.dumps({**header, "device": run.name}))
    assert compare(Run.open(a.path), Run.open(b.path)).settings == {
        "method": ("baseline", "piloted"),
        "settings.limit": (None, 8),
        "settings.image_processor.size.height": (384, None),
        "settings.image_processor.size.width": (384, None),
        "settings.intervene": (None, "class"),
    }


def test_intervals_are_paired(tmp_path: Path, make_run: MakeRun) -> None:
    """A paired interval is narrower than that of two independent runs."""
    a, b = two(tmp_path, make_run)
    row = compare(a, b).layers.iloc[0]
    alone = [(t["miou_l_high"] - t["miou_l_low"])[1] for t in (a.layers(), b.layers())]
    assert row["high"] - row["low"] < np.hypot(*alone)


def test_largest_differences_of_images_and_classes(tmp_path: Path, make_run: MakeRun) -> None:
    a, b = two(tmp_path, make_run)
    found = compare(a, b, top=3)
    own = [
        run.query("SELECT image_id, avg(iou_prev) iou FROM queries GROUP BY 1").set_index(
            "image_id"
        )
        for run in (a, b)
    ]
    expected = (own[1] - own[0])["iou"].abs().sort_values(ascending=False)
    moved = found.moved_images[found.moved_images["metric"] == "miou_l"]
    assert moved["image_id"].tolist() == expected.index[:3].tolist()
    assert moved["difference"].tolist() == pytest.approx(expected.iloc[:3].tolist())
    assert moved["file_name"].tolist() == [f"{n:06d}.jpg" for n in moved["image_id"]]
    classes = found.moved_classes[found.moved_classes["metric"] == "miou_l"]
    assert sorted(classes["class"]) == ["disc", "square", "star"]
    assert (classes["difference"].diff().dropna() <= 0).all()
    table = a.layers(by="class", resamples=1)
    table["miou_l"] *= table["pairs"]
    sums = table.groupby("group")[["miou_l", "pairs"]].sum()
    expected = sums["miou_l"] / sums["pairs"]
    assert classes["a"].tolist() == pytest.approx(expected[classes["class"]].tolist())


def test_only_the_table_of_classes_needs_classes(tmp_path: Path, make_run: MakeRun) -> None:
    a, b = two(tmp_path, make_run)
    header = json.loads((b.path / "run.json").read_text())
    (b.path / "run.json").write_text(json.dumps({**header, "classes": None}))
    found = compare(a, Run.open(b.path))
    assert found.moved_classes.empty and len(found.layers) and len(found.moved_images)


def test_the_order_of_the_annotations_may_differ(tmp_path: Path, make_run: MakeRun) -> None:
    paths = [make_run(tmp_path / name, images=5, layers=3) for name in "ab"]
    for path, order in zip(paths, (1, -1), strict=True):
        (file,) = (path / "targets").glob("*.parquet")
        table = pq.read_table(file).to_pylist()
        both = [row for row in table if row["image_id"] == 3]
        for row, category in zip(both, (5, 6)[::order], strict=True):
            row["category_id"] = category
        pq.write_table(pq.read_table(file).from_pylist(table, pq.read_schema(file)), file)
    assert compare(*map(Run.open, paths)).images == 5


def test_runs_that_cannot_be_compared(tmp_path: Path, make_run: MakeRun) -> None:
    def refused(message: str, other: Path) -> None:
        with pytest.raises(RunError, match=message) as error:
            compare(run, Run.open(other))
        assert str(error.value).count(". ") == 0  # one sentence

    run = Run.open(make_run(tmp_path / "run", images=5, layers=3))
    refused(
        "run has 3 layers and .*few has 2 layers; ", make_run(tmp_path / "few", images=5, layers=2)
    )
    refused(
        "different images: 5 and 4, of which 4 are in both; ",
        make_run(tmp_path / "less", images=4, layers=3),
    )
    path = make_run(tmp_path / "gt", images=5, layers=3)
    (file,) = (path / "targets").glob("*.parquet")
    table = pq.read_table(file).to_pylist()
    assert [row["image_id"] for row in table] == [2, 3, 3, 4, 4, 4]
    table[2]["category_id"] += 1
    pq.write_table(pq.read_table(file).from_pylist(table, pq.read_schema(file)), file)
    refused("different GT on 000003.jpg; ", path)


def test_runs_without_images_compare_to_nothing(tmp_path: Path, make_run: MakeRun) -> None:
    runs = [Run.open(make_run(tmp_path / name, images=0)) for name in "ab"]
    found = compare(*runs)
    assert found.images == 0 and found.layers.empty and found.moved_classes.empty
