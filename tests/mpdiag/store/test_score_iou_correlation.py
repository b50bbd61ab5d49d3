"""`score_iou_correlation` against scipy, and cases by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from scipy.stats import spearmanr

from mpdiag.store import Run
from mpdiag.store.layer_metrics import layer_metrics

NAME = "score_iou_correlation"
Database = Callable[..., duckdb.DuckDBPyConnection]
Pairs = list[tuple[float | None, float | None]]


def correlation(database: Database, *images: Pairs) -> float:
    """The metric of one layer, from (score, IoU) of the queries of each image."""
    queries: list[dict[str, Any]] = [
        {"image_id": image, "layer": 0, "query": n, "score": score, "best_gt_iou": iou}
        for image, pairs in enumerate(images)
        for n, (score, iou) in enumerate(pairs)
    ]
    rows = [{"image_id": image, "num_gt": 1} for image in range(len(images))]
    table = layer_metrics(database({"queries": queries, "images": rows}))
    return float(table[NAME].item())


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_mean_of_scipy_over_images(
    tmp_path: Path, make_run: Callable[..., Path], seed: int
) -> None:
    path = make_run(tmp_path / "run", images=12, queries=15, layers=3, seed=seed, shards=3)
    run = Run.open(path)
    found: dict[int, list[float]] = {layer: [] for layer in range(4)}
    for (_, layer), own in run.query("SELECT * FROM queries").groupby(["image_id", "layer"]):
        if own["best_gt_iou"].nunique() > 1:  # queries without overlap are tied
            found[layer].append(spearmanr(own["score"], own["best_gt_iou"]).statistic)
    expected = [np.mean(found[layer]) for layer in range(4)]
    assert run.layer_metrics()[NAME].tolist() == pytest.approx(expected, abs=1e-12)
    assert np.ptp(expected) > 0.01
    summary = json.loads((path / "summary.json").read_text())
    values = [summary["m0"][NAME], *(layer[NAME] for layer in summary["layers"])]
    assert values == run.layer_metrics()[NAME].tolist()


@pytest.mark.parametrize("levels", [2, 4, 50])
def test_ties_get_average_ranks(database: Database, levels: int) -> None:
    generator = np.random.default_rng(levels)
    images = [generator.integers(0, levels, (40, 2)) / levels for _ in range(5)]
    expected = np.mean([spearmanr(pairs).statistic for pairs in images])
    assert correlation(database, *images) == pytest.approx(expected, abs=1e-12)


def test_by_hand(database: Database) -> None:
    # Ranks 1, 2, 3 and 1, 3, 2: 1 - 6 * (0 + 1 + 1) / (3 * 8) = 1/2.
    assert correlation(database, [(0.1, 0.0), (0.2, 0.9), (0.9, 0.5)]) == 0.5
    # Ranks 1.5, 1.5, 3 and 1, 2, 3: covariance 1.5, variances 1.5 and 2.
    tied = correlation(database, [(0.1, 0.0), (0.1, 0.5), (0.9, 0.6)])
    assert tied == pytest.approx(1.5 / np.sqrt(1.5 * 2))


def test_equal_and_reversed_order_give_exactly_one(database: Database) -> None:
    scores = np.random.default_rng(0).random(100)
    assert correlation(database, list(zip(scores, scores**2, strict=True))) == 1
    assert correlation(database, list(zip(scores, 1 - scores, strict=True))) == -1


def test_undefined_images_do_not_count(database: Database) -> None:
    defined: Pairs = [(0.1, 0.2), (0.3, 0.4)]
    constant_scores: Pairs = [(0.5, 0.1), (0.5, 0.9)]
    constant_ious: Pairs = [(0.1, 0.0), (0.9, 0.0)]  # for example, no GT
    not_finite: Pairs = [(None, None), (0.5, 0.5)]
    undefined = (constant_scores, constant_ious, not_finite, [(0.5, 0.5)], [])
    assert all(np.isnan(correlation(database, pairs)) for pairs in undefined if pairs)
    assert correlation(database, defined, *undefined) == 1


def test_no_queries(database: Database) -> None:
    assert layer_metrics(database({}))[NAME].empty
