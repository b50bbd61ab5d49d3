import itertools
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apps import rows
from apps.runs import open_all
from mpdiag.errors import RunError


@pytest.fixture
def loaded(make_run, tmp_path):
    path = make_run(tmp_path / "run", images=5, queries=6, layers=4, seed=3)
    return open_all([str(path)])[0][0]


def rows_in(loaded, folder):
    return pq.read_table(loaded.run.path / folder).to_pylist()


def rewrite(loaded, folder, change):
    """The run opened anew, with the rows of `folder` changed."""
    file = next((loaded.run.path / folder).glob("*.parquet"))
    table = pq.read_table(file)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), file)
    shutil.rmtree(loaded.run.path / "aggregates", ignore_errors=True)
    loaded.run.path.joinpath("run.json").touch()
    return open_all([str(loaded.run.path)])[0][0]


def test_a_querys_layers_are_its_rows(loaded):
    names = ("iou_prev", "matched_gt", "best_gt", "best_gt_iou", "label", "score", "area")
    expected = [
        rows.Layer(row["layer"], *(row[name] for name in names))
        for row in sorted(rows_in(loaded, "queries"), key=lambda row: row["layer"])
        if (row["image_id"], row["query"]) == (4, 1)
    ]
    assert rows.read(loaded.run, 4).layers(1) == expected


def test_targets_name_and_size_are_those_of_the_image(loaded):
    image = rows.read(loaded.run, 4)
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
    assert image.kept == set(range(6))


def test_an_image_that_the_run_has_not_is_none_and_missing_rows_are_an_error(loaded):
    assert rows.read(loaded.run, 99) is None
    fewer = rewrite(loaded, "queries", lambda all_rows: all_rows[:-1])
    with pytest.raises(RunError, match="image 5"):
        rows.read(fewer.run, 5)


def test_the_worst_query_comes_first_and_kept_ones_before_others(loaded):
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
    worst = rows.read(loaded.run, 4).worst()
    order = sorted(lowest, key=lambda query: (query not in (1, 4), lowest[query][0], query))
    assert worst["query"].tolist() == order
    assert worst["kept"].tolist() == [True, True, False, False, False, False]
    for row in worst.to_dict("records"):
        assert (row["iou"], row["layer"]) == lowest[row["query"]]


def test_failure_pairs_are_those_that_differ_in_most_cells(loaded):
    run = loaded.run
    image = rows.read(run, 4)
    differing = {}
    for query in range(6):
        masks = run.masks(4, query)
        for layer, (before, now) in enumerate(itertools.pairwise(masks), start=1):
            union = (before | now).sum()
            if union and (before & now).sum() / union < 0.5:
                differing.setdefault(query, []).append((-(before ^ now).sum(), query, layer))
    expected = sorted(min(found) for found in differing.values())[:3]
    found = image.failures(3)
    assert list(zip(found["query"], found["layer"], strict=True)) == [key[1:] for key in expected]


def test_images_with_kept_masks_are_offered_by_badness(loaded):
    loaded = rewrite(
        loaded,
        "masks",
        lambda masks: [{**row, "badness": 10.0 * row["image_id"] % 7} for row in masks],
    )
    order = sorted(range(1, 6), key=lambda image: -(10 * image % 7))
    assert rows.worst_images(loaded)["image_id"].tolist() == order


def test_without_masks_images_are_offered_by_their_miou_l(loaded):
    loaded = rewrite(loaded, "masks", lambda masks: [])
    ious = {image: [] for image in range(1, 6)}
    for row in rows_in(loaded, "queries"):
        if row["iou_prev"] is not None:
            ious[row["image_id"]].append(row["iou_prev"])
    order = sorted(ious, key=lambda image: sum(ious[image]) / len(ious[image]))
    found = rows.worst_images(loaded)
    assert found["image_id"].tolist() == order
    assert found["miou_l"].iloc[0] == pytest.approx(sum(ious[order[0]]) / len(ious[order[0]]))
