"""Every filter and order against plain Python over the rows."""

import math

import pyarrow.parquet as pq
import pytest

from apps.gallery import ANY, ORDERS, Filter, find, most_objects
from apps.runs import open_all
from mpdiag.store.transitions import classified


@pytest.fixture(scope="module")
def path(make_run, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("gallery") / "run", images=12, layers=4, seed=7)


@pytest.fixture
def loaded(path):
    return open_all([str(path)])[0][0]


def facts(loaded, layer=None, kind=ANY):
    """image_id -> what the gallery tells of it, one row at a time."""
    layers = [layer] if layer else [1, 2, 3, 4]
    rows = pq.read_table(loaded.run.path / "queries").to_pylist()
    targets = pq.read_table(loaded.run.path / "targets").to_pylist()
    kinds = loaded.run.query(classified()).to_dict("records")
    told = {}
    for image in pq.read_table(loaded.run.path / "images").to_pylist():
        key = image["image_id"]
        ious = [
            row["iou_prev"]
            for row in rows
            if row["image_id"] == key and row["layer"] in layers and row["iou_prev"] is not None
        ]
        own = [target["matched_query"] for target in targets if target["image_id"] == key]
        kept = [queries[i] == queries[-1] for queries in own for i in layers]
        told[key] = {
            "file_name": image["file_name"],
            "num_gt": len(own),
            "util": sum(kept) / len(kept) if kept else math.nan,
            "miou_l": sum(ious) / len(ious) if ious else math.nan,
            "moves": sum(
                row["image_id"] == key
                and row["layer"] in layers
                and (row["kind"] == kind if kind != ANY else row["kind"] != "kept")
                for row in kinds
            ),
            "labels": {target["label"] for target in targets if target["image_id"] == key},
        }
    return told


@pytest.mark.parametrize("layer", [None, 1, 3])
@pytest.mark.parametrize("kind", [ANY, "switched", "vanished"])
def test_an_images_figures_are_those_of_its_rows(loaded, layer, kind):
    found = find(loaded, Filter(layer=layer, kind=kind), 100).set_index("image_id")
    expected = facts(loaded, layer, kind)
    if kind != ANY:
        expected = {key: one for key, one in expected.items() if one["moves"]}
    assert set(found.index) == set(expected)
    for key, one in expected.items():
        for column in ("file_name", "num_gt", "moves"):
            assert found.loc[key, column] == one[column]
        for column in ("util", "miou_l"):
            assert found.loc[key, column] == pytest.approx(one[column], nan_ok=True)
    assert (found["total"] == len(expected)).all()


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (Filter(objects=(1, 2)), lambda one: 1 <= one["num_gt"] <= 2),
        (Filter(util=(0, 90)), lambda one: one["util"] <= 0.9),
        (Filter(util=(95, 100)), lambda one: one["util"] >= 0.95),
        (Filter(miou_l=(30, 45)), lambda one: 0.3 <= one["miou_l"] <= 0.45),
        (Filter(labels=(1,)), lambda one: 1 in one["labels"]),
        (Filter(labels=(0, 2)), lambda one: one["labels"] & {0, 2}),
        (Filter(labels=(0,), objects=(2, 3)), lambda one: 0 in one["labels"] and one["num_gt"] > 1),
    ],
)
def test_a_filter_leaves_the_images_that_fit(loaded, wanted, fits):
    expected = {key for key, one in facts(loaded).items() if fits(one)}
    assert 0 < len(expected) < 12
    assert set(find(loaded, wanted, 100)["image_id"]) == expected


@pytest.mark.parametrize("order", ORDERS)
def test_images_come_in_order_and_those_without_a_value_last(loaded, order):
    column = {"objects": "num_gt", "name": "file_name"}.get(order, order)
    values = find(loaded, Filter(order=order), 100)[column].tolist()
    known = [value for value in values if value == value]
    assert values[: len(known)] == known
    assert known == sorted(known, reverse=order in ("objects", "moves"))


def test_pages_make_up_the_whole(loaded):
    whole = find(loaded, Filter(), 100)["image_id"].tolist()
    parts = [find(loaded, Filter(), 5, start)["image_id"].tolist() for start in (0, 5, 10)]
    assert [len(part) for part in parts] == [5, 5, 2]
    assert [image for part in parts for image in part] == whole


def test_the_fullest_image_is_known(loaded):
    assert most_objects(loaded) == 3
