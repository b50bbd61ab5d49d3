"""Layer metrics, oracle and query use computed by hand, and the Gini coefficient."""

from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pytest

from mpdiag.store.layer_metrics import LAYER_METRICS, layer_metrics
from mpdiag.store.query_use import gini, query_use
from mpdiag.store.summary import oracle

MATCHED = [  # layer by layer V^i of three queries, in two images; the second has one GT
    ([0, 1, -1], [0, -1, -1]),
    ([1, 0, -1], [0, -1, -1]),
    ([1, -1, 0], [-1, 0, -1]),
]
AREA = [([4, 0, 2], [1, 1, 1]), ([4, 0, 0], [1, 1, None]), ([4, 3, 2], [0, 0, 0])]
IOU = [([0.5, 0.2, 0.6], [0.4, 0.1, 0.0]), ([0.8, 0.7, 0.6], [0.4, 0.1, 0.0]),
       ([1.0, 0.5, 0.9], [0.2, 0.8, 0.0])]  # fmt: skip
BEST_GT = [0, 0, 1]  # of each query; the second image has GT 0 alone
LABEL = [0, 0, 1]  # of GT 0, GT 0 and GT 1
SCORE = [0.9, 0.8, 0.7]


def rows() -> dict[str, list[dict[str, Any]]]:
    queries = []
    for layer, image, query in np.ndindex(3, 2, 3):
        gt = MATCHED[layer][image][query]
        row = {"image_id": image, "layer": layer, "query": query, "matched_gt": gt}
        row |= {"area": AREA[layer][image][query], "best_gt_iou": IOU[layer][image][query]}
        row |= {"best_gt": BEST_GT[query] if image == 0 else 0, "label": LABEL[query]}
        row |= {"score": None if row["area"] is None else SCORE[query]}
        if gt >= 0:
            row |= {"matched_gt_iou": row["best_gt_iou"], "margin": layer - 1.0}
            row |= {"class_cost": 1.0, "mask_cost": 2.0, "dice_cost": 1.0 + layer}
        queries.append(row)
    owners = {(0, 0): [0, 1, 2], (0, 1): [1, 0, 0], (1, 0): [0, 0, 1]}
    best = {(0, 0): [0.5, 0.8, 1.0], (0, 1): [0.6, 0.9, 0.9], (1, 0): [0.4, 0.4, 0.8]}
    targets = [
        {"image_id": image, "gt": gt, "label": gt, "matched_query": owners[image, gt],
         "best_query_iou": best[image, gt]}
        for image, gt in owners
    ]  # fmt: skip
    return {
        "queries": queries,
        "targets": targets,
        "images": [{"image_id": 0, "num_gt": 2}, {"image_id": 1, "num_gt": 1}],
    }


@pytest.fixture
def connection(database: Callable[..., duckdb.DuckDBPyConnection]) -> duckdb.DuckDBPyConnection:
    return database(rows())


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("empty_masks", [1 / 6, 2 / 5, 3 / 6]),
        # Image 0: two queries swap, then two of three change; image 1: none, then two.
        ("instability", [np.nan, 2 / 2, 4 / 2]),
        # Image 0: no GT keeps its query; then GT 1 keeps query 0. Image 1: kept, then lost.
        ("match_stability", [np.nan, (0 + 1) / 2, (1 / 2 + 0) / 2]),
        ("matched_iou", [(0.5 + 0.2 + 0.4) / 3, (0.8 + 0.7 + 0.4) / 3, (1.0 + 0.9 + 0.8) / 3]),
        ("best_iou", [(0.5 + 0.6 + 0.4) / 3, (0.8 + 0.9 + 0.4) / 3, (1.0 + 0.9 + 0.8) / 3]),
        ("margin", [-1, 0, 1]),
        ("class_share", [1 / 4, 1 / 5, 1 / 6]),
        ("mask_share", [2 / 4, 2 / 5, 2 / 6]),
        ("dice_share", [1 / 4, 2 / 5, 3 / 6]),
        # From layer 1 on, two queries of image 0 fit GT 0; in layer 0 one has IoU < 0.5.
        ("duplicates", [0, 1 / 3, 1 / 3]),
        ("non_finite", [0, 1, 0]),
    ],
)
def test_by_hand(connection: duckdb.DuckDBPyConnection, column: str, expected: list[float]) -> None:
    table = layer_metrics(connection)
    assert table["layer"].tolist() == [0, 1, 2] and set(table) == {"layer", *LAYER_METRICS}
    assert table[column].astype(float).tolist() == pytest.approx(expected, nan_ok=True)


def test_the_oracle_takes_the_best_layer_of_each_gt(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    found = oracle(connection)
    # Matches: GT 0 by queries 0, 1, 2 with 0.5, 0.7, 0.9; GT 1 by 1, 0, 0; the other by 0, 0, 1.
    assert found["matched_iou"] == pytest.approx((0.9 + 1.0 + 0.8) / 3)
    assert found["best_iou"] == pytest.approx((1.0 + 0.9 + 0.8) / 3)


def test_query_use(connection: duckdb.DuckDBPyConnection) -> None:
    found = query_use(connection)
    assert found == {"matches": [1, 1, 1], "dead": 0, "gini": 0}


def test_gini_equals_its_definition() -> None:
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)
    assert gini(np.array([3, 3])) == 0
    assert gini(np.array([0, 0])) is None and gini(np.array([], dtype=np.int64)) is None
    counts = np.random.default_rng(0).integers(0, 50, 37)
    mean_difference = np.abs(counts[:, None] - counts).mean()
    assert gini(counts) == pytest.approx(mean_difference / (2 * counts.mean()))
