"""Filters and sort orders against plain Python over the rows."""

import math

import pyarrow.parquet as pq
import pytest

from apps.gallery import ALL_CHANGES, SORT_ORDERS, ImageFilter, find_images, max_objects
from apps.runs import open_runs
from mpdiag.store.transitions import transitions_sql


@pytest.fixture(scope="module")
def path(make_run, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("gallery") / "run", images=12, layers=4, seed=7)


@pytest.fixture
def loaded(path):
    return open_runs([str(path)])[0][0]


def image_facts(loaded, layer=None, transition=ALL_CHANGES):
    """Return image_id -> values of the image, from loops over the rows."""
    layers = [layer] if layer else [1, 2, 3, 4]
    rows = pq.read_table(loaded.run.path / "queries").to_pylist()
    targets = pq.read_table(loaded.run.path / "targets").to_pylist()
    kinds = loaded.run.query(transitions_sql()).to_dict("records")
    expected = {}
    for image in pq.read_table(loaded.run.path / "images").to_pylist():
        key = image["image_id"]
        ious = [
            row["iou_prev"]
            for row in rows
            if row["image_id"] == key and row["layer"] in layers and row["iou_prev"] is not None
        ]
        own = [target["matched_query"] for target in targets if target["image_id"] == key]
        kept = [queries[i] == queries[-1] for queries in own for i in layers]
        expected[key] = {
            "file_name": image["file_name"],
            "num_gt": len(own),
            "util": sum(kept) / len(kept) if kept else math.nan,
            "miou_l": sum(ious) / len(ious) if ious else math.nan,
            "transitions": sum(
                row["image_id"] == key
                and row["layer"] in layers
                and (
                    row["kind"] == transition
                    if transition != ALL_CHANGES
                    else row["kind"] != "kept"
                )
                for row in kinds
            ),
            "labels": {target["label"] for target in targets if target["image_id"] == key},
        }
    return expected


@pytest.mark.parametrize("layer", [None, 1, 3])
@pytest.mark.parametrize("transition", [ALL_CHANGES, "switched", "vanished"])
def test_values_of_an_image_match_its_rows(loaded, layer, transition):
    images = find_images(loaded, ImageFilter(layer=layer, transition=transition), 100).set_index(
        "image_id"
    )
    expected = image_facts(loaded, layer, transition)
    if transition != ALL_CHANGES:
        expected = {key: facts for key, facts in expected.items() if facts["transitions"]}
    assert set(images.index) == set(expected)
    for key, facts in expected.items():
        for column in ("file_name", "num_gt", "transitions"):
            assert images.loc[key, column] == facts[column]
        for column in ("util", "miou_l"):
            assert images.loc[key, column] == pytest.approx(facts[column], nan_ok=True)
    assert (images["total"] == len(expected)).all()


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        (ImageFilter(objects=(1, 2)), lambda facts: 1 <= facts["num_gt"] <= 2),
        (ImageFilter(util=(0, 90)), lambda facts: facts["util"] <= 0.9),
        (ImageFilter(util=(95, 100)), lambda facts: facts["util"] >= 0.95),
        (ImageFilter(miou_l=(30, 45)), lambda facts: 0.3 <= facts["miou_l"] <= 0.45),
        (ImageFilter(labels=(1,)), lambda facts: 1 in facts["labels"]),
        (ImageFilter(labels=(0, 2)), lambda facts: facts["labels"] & {0, 2}),
        (
            ImageFilter(labels=(0,), objects=(2, 3)),
            lambda facts: 0 in facts["labels"] and facts["num_gt"] > 1,
        ),
    ],
)
def test_filters_return_the_matching_images(loaded, filters, matches):
    expected = {key for key, facts in image_facts(loaded).items() if matches(facts)}
    assert 0 < len(expected) < 12
    assert set(find_images(loaded, filters, 100)["image_id"]) == expected


@pytest.mark.parametrize("order", SORT_ORDERS)
def test_images_are_sorted_with_missing_values_last(loaded, order):
    column = {"objects": "num_gt", "name": "file_name"}.get(order, order)
    values = find_images(loaded, ImageFilter(order=order), 100)[column].tolist()
    known = [value for value in values if value == value]
    assert values[: len(known)] == known
    assert known == sorted(known, reverse=order in ("objects", "transitions"))


def test_pages_are_slices_of_the_whole_list(loaded):
    whole = find_images(loaded, ImageFilter(), 100)["image_id"].tolist()
    pages = [
        find_images(loaded, ImageFilter(), 5, start)["image_id"].tolist() for start in (0, 5, 10)
    ]
    assert [len(page) for page in pages] == [5, 5, 2]
    assert [image for page in pages for image in page] == whole


def test_max_objects(loaded):
    assert max_objects(loaded) == 3
