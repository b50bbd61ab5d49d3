import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apps import rows
from mpdiag.errors import RunError
from mpdiag.store import Run, rle


@pytest.fixture
def run(make_run, tmp_path):
    return Run.open(make_run(tmp_path / "run", images=5, queries=6, layers=4, seed=3))


def read(run, folder):
    return pq.read_table(run.path / folder).to_pylist()


def rewrite_masks(run, change):
    file = next((run.path / "masks").glob("*.parquet"))
    table = pq.read_table(file)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), file)
    return Run.open(run.path)


def lowest_transition(run):
    """(image, query) -> (lowest IoU, its first layer), in plain Python."""
    lowest = {}
    for row in sorted(read(run, "queries"), key=lambda row: row["layer"]):
        key = row["image_id"], row["query"]
        iou = row["iou_prev"]
        if iou is not None and (key not in lowest or iou < lowest[key][0]):
            lowest[key] = iou, row["layer"]
    return lowest


def test_kept_queries_come_worst_first(run):
    lowest = lowest_transition(run)
    kept = rows.kept_queries(run)
    assert len(kept) == 5 * 6
    found = list(zip(kept["image_id"], kept["query"], strict=True))
    expected = sorted(lowest, key=lambda key: (lowest[key][0], *key))
    assert found[: len(expected)] == expected
    for key, iou, layer in zip(found, kept["worst_iou"], kept["worst_layer"], strict=True):
        if key in lowest:
            assert (iou, layer) == lowest[key]


def test_the_runs_own_badness_comes_before_the_iou(run):
    def change(masks):
        for row in masks:
            row["badness"] = 10 * row["image_id"] + row["index"]
        return masks

    kept = rows.kept_queries(rewrite_masks(run, change))
    assert list(zip(kept["image_id"], kept["query"], strict=True)) == [
        (image, query) for image in range(5, 0, -1) for query in range(5, -1, -1)
    ]


def test_only_queries_with_masks_are_offered(run):
    def change(masks):
        return [row for row in masks if row["kind"] == "gt" or row["index"] == 2]

    kept = rows.kept_queries(rewrite_masks(run, change))
    assert set(kept["query"]) == {2}
    assert len(kept) == 5


def test_a_query_that_is_always_empty_has_no_worst_transition(run):
    empty = rle.encode(run.masks(2, 0)[0] & False)
    table = pq.read_table(next((run.path / "queries").glob("*.parquet")))
    changed = [
        {**row, "iou_prev": None} if (row["image_id"], row["query"]) == (2, 0) else row
        for row in table.to_pylist()
    ]
    file = next((run.path / "queries").glob("*.parquet"))
    pq.write_table(pa.Table.from_pylist(changed, table.schema), file)
    run = rewrite_masks(
        run,
        lambda masks: [
            {**row, "counts": empty} if (row["image_id"], row["index"]) == (2, 0) else row
            for row in masks
        ],
    )
    last = rows.kept_queries(run).iloc[-1]
    assert (last["image_id"], last["query"]) == (2, 0)
    assert last[["worst_iou", "worst_layer"]].isna().all()


def test_a_querys_layers_are_its_rows(run):
    labels = {(row["image_id"], row["gt"]): row["label"] for row in read(run, "targets")}
    expected = [
        rows.Layer(
            row["layer"],
            row["iou_prev"],
            row["matched_gt"],
            labels.get((4, row["matched_gt"])),
            row["label"],
            row["score"],
        )
        for row in sorted(read(run, "queries"), key=lambda row: row["layer"])
        if (row["image_id"], row["query"]) == (4, 1)
    ]
    assert rows.layers_of(run, 4, 1) == expected


def test_rows_that_are_missing_are_named(run):
    with pytest.raises(RunError, match="image 4, query 77"):
        rows.layers_of(run, 4, 77)
    with pytest.raises(RunError, match="image 99"):
        rows.size_of(run, 99)


def test_targets_and_size_are_those_of_the_image(run):
    targets = rows.targets_of(run, 4)
    expected = [row for row in read(run, "targets") if row["image_id"] == 4]
    assert targets["gt"].tolist() == [row["gt"] for row in expected]
    assert [list(q) for q in targets["matched_query"]] == [row["matched_query"] for row in expected]
    image = next(row for row in read(run, "images") if row["image_id"] == 4)
    assert rows.size_of(run, 4) == (image["height"], image["width"])
