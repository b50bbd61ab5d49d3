"""The synthetic run has the properties that docs/run-directory.md describes."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic_run import RunSize, write_run

from mpdiag import rle
from mpdiag.store import Run, compare

SMALL = RunSize(images=40, queries=12, layers=9, saved=10, height=24, width=32)


@pytest.fixture(scope="module")
def synthetic_runs(tmp_path_factory):
    """Two small runs over the same images."""
    folder = tmp_path_factory.mktemp("synthetic")
    return [write_run(folder / f"run-{seed}", SMALL, seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def run(synthetic_runs):
    return Run.open(synthetic_runs[0])


def rows(run, folder):
    return pq.read_table(run.path / folder).to_pylist()


def test_there_is_a_row_for_each_image_layer_and_query(run):
    keys = {(row["image_id"], row["layer"], row["query"]) for row in rows(run, "queries")}
    assert len(keys) == len(rows(run, "queries")) == 40 * 10 * 12
    assert len(rows(run, "images")) == 40
    assert all(run.image(image_id).is_file() for image_id in range(1, 41))


def test_areas_and_ious_of_adjacent_layers_agree(run):
    comparison = {
        (row["image_id"], row["layer"], row["query"]): row for row in rows(run, "queries")
    }
    for (image, layer, query), row in comparison.items():
        if layer == 0:
            assert row["iou_prev"] is row["area_prev"] is row["intersection_prev"] is None
            continue
        before = comparison[image, layer - 1, query]["area"]
        union = row["area"] + before - row["intersection_prev"]
        assert row["area_prev"] == before
        assert 0 <= row["intersection_prev"] <= min(row["area"], before)
        assert row["iou_prev"] == (row["intersection_prev"] / union if union else None)


def test_matches_of_queries_agree_with_matches_of_gt(run):
    of_queries = {
        (row["image_id"], row["layer"], row["matched_gt"]): row["query"]
        for row in rows(run, "queries")
        if row["matched_gt"] >= 0
    }
    of_gt = {
        (row["image_id"], layer, row["gt"]): query
        for row in rows(run, "targets")
        for layer, query in enumerate(row["matched_query"])
    }
    assert of_queries == of_gt
    util = {}
    for (image, layer, gt), query in of_gt.items():
        util.setdefault((image, layer), []).append(query == of_gt[image, 9, gt])
    for image in rows(run, "images"):
        expected = [np.mean(util[image["image_id"], k]) for k in range(10) if image["num_gt"]]
        assert image["util"] == pytest.approx(expected)


def test_saved_masks_match_the_rows(run):
    area = {(r["image_id"], r["layer"], r["query"]): r["area"] for r in rows(run, "queries")}
    gt_area = {(r["image_id"], r["gt"]): r["area"] for r in rows(run, "targets")}
    saved = rows(run, "masks")
    assert len({row["image_id"] for row in saved}) == 10
    for row in saved:
        mask = rle.decode(row["counts"], row["height"], row["width"])
        if row["kind"] == "gt":
            assert mask.sum() == gt_area[row["image_id"], row["index"]]
        else:
            assert mask.sum() == area[row["image_id"], row["layer"], row["index"]]


def test_runs_with_different_seeds_can_be_compared(synthetic_runs):
    comparison = compare(*map(Run.open, synthetic_runs))
    assert comparison.images == 40
    assert comparison.moved_images["difference"].abs().max() > 0
