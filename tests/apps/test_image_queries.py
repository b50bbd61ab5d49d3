"""The rows of one image against the Parquet files."""

import shutil
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apps.image_queries import QueryLayer, read_image, worst_images
from apps.runs import open_runs
from mpdiag.errors import RunError


@pytest.fixture
def loaded(make_run, tmp_path):
    path = make_run(tmp_path / "run", images=5, queries=6, layers=4, seed=3)
    return open_runs([str(path)])[0][0]


def rows_in(loaded, folder):
    return pq.read_table(loaded.run.path / folder).to_pylist()


def rewrite(loaded, folder, change):
    """Open the run again after changing the rows of `folder`."""
    file = next((loaded.run.path / folder).glob("*.parquet"))
    table = pq.read_table(file)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), file)
    shutil.rmtree(loaded.run.path / "aggregates", ignore_errors=True)
    loaded.run.path.joinpath("run.json").touch()
    return open_runs([str(loaded.run.path)])[0][0]


def test_layers_of_a_query_match_its_rows(loaded):
    expected = [
        QueryLayer(**{name: row[name] for name in QueryLayer.__slots__})
        for row in sorted(rows_in(loaded, "queries"), key=lambda row: row["layer"])
        if (row["image_id"], row["query"]) == (4, 1)
    ]
    assert read_image(loaded.run, 4).layers(1) == expected


def test_targets_name_and_size_match_the_rows(loaded):
    image = read_image(loaded.run, 4)
    expected = [row for row in rows_in(loaded, "targets") if row["image_id"] == 4]
    assert image.targets["gt"].tolist() == [row["gt"] for row in expected]
    assert [list(q) for q in image.targets["matched_query"]] == [
        row["matched_query"] for row in expected
    ]
    row = next(row for row in rows_in(loaded, "images") if row["image_id"] == 4)
    assert (image.file_name, image.height, image.width) == (
        row["file_name"],
        row["height"],
        row["width"],
    )
    assert image.saved == set(range(6))


def test_unknown_image_and_missing_rows_are_errors(loaded):
    with pytest.raises(RunError, match="no image 99"):
        read_image(loaded.run, 99)
    incomplete = rewrite(loaded, "queries", lambda rows: rows[:-1])
    with pytest.raises(RunError, match="image 5"):
        read_image(incomplete.run, 5)


def test_queries_are_ranked_by_saved_masks_then_lowest_iou(loaded):
    loaded = rewrite(
        loaded,
        "masks",
        lambda masks: [row for row in masks if row["kind"] == "gt" or row["index"] in (1, 4)],
    )
    lowest = {}
    for row in sorted(rows_in(loaded, "queries"), key=lambda row: row["layer"]):
        iou = row["iou_prev"]
        known = lowest.get(row["query"], (2, 0))
        if row["image_id"] == 4 and iou is not None and iou < known[0]:
            lowest[row["query"]] = iou, row["layer"]
    ranked = read_image(loaded.run, 4).rank_queries()
    order = sorted(lowest, key=lambda query: (query not in (1, 4), lowest[query][0], query))
    assert ranked["query"].tolist() == order
    assert ranked["saved"].tolist() == [True, True, False, False, False, False]
    for row in ranked.to_dict("records"):
        assert (row["iou"], row["layer"]) == lowest[row["query"]]
    assert ranked["finite"].all()


def test_queries_with_masks_that_are_not_finite(loaded):
    def spoil(rows):
        spoilt = {"area": None, "iou_prev": None}
        return [row | spoilt if row["query"] == 2 else row for row in rows]

    ranked = read_image(rewrite(loaded, "queries", spoil).run, 4).rank_queries()
    assert ranked[~ranked["finite"]]["query"].tolist() == [2]


def test_worst_images_are_ordered_by_change_score(loaded):
    loaded = rewrite(
        loaded,
        "masks",
        lambda masks: [{**row, "change_score": 10.0 * row["image_id"] % 7} for row in masks],
    )
    order = sorted(range(1, 6), key=lambda image: -(10 * image % 7))
    assert worst_images(loaded)["image_id"].tolist() == order


def test_worst_images_without_masks_are_ordered_by_miou_l(loaded):
    loaded = rewrite(loaded, "masks", lambda masks: [])
    ious = {image: [] for image in range(1, 6)}
    for row in rows_in(loaded, "queries"):
        if row["iou_prev"] is not None:
            ious[row["image_id"]].append(row["iou_prev"])
    order = sorted(ious, key=lambda image: sum(ious[image]) / len(ious[image]))
    worst = worst_images(loaded)
    assert worst["image_id"].tolist() == order
    assert worst["miou_l"].iloc[0] == pytest.approx(sum(ious[order[0]]) / len(ious[order[0]]))


def test_first_queries(loaded):
    """Query 4 is selected, 3 matches in the last layer, 1 did before, 5 has the highest score."""
    final = {0: (-1, 0.2), 1: (-1, 0.1), 2: (-1, None), 3: (0, 0.05), 4: (-1, 0.0), 5: (-1, 0.9)}

    def change(rows):
        for row in rows:
            row["matched_gt"], row["score"] = final[row["query"]]
            if (row["layer"], row["query"]) == (2, 1):
                row["matched_gt"] = 0
        return rows

    image = read_image(loaded.run, 4)
    rows = change(image.queries.to_dict("records"))
    image = replace(image, queries=pd.DataFrame(rows))
    found = [image.first_queries(count, 4) for count in range(1, 7)]
    assert found == [[4], [3, 4], [1, 3, 4], [1, 3, 4, 5], [0, 1, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert image.numbers == found[-1]
