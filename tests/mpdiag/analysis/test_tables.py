"""Tables of an image whose predictions equal the GT in every layer."""

from collections.abc import Callable

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch

from mpdiag.analysis.measure import MeasuredImage
from mpdiag.analysis.tables import images_table, queries_table, targets_table
from mpdiag.data import ClassInfo, Sample
from mpdiag.matching import Target, finite_queries, match_with_costs
from mpdiag.metrics import image_rows
from mpdiag.store.layer_metrics import layer_metrics
from mpdiag.store.transitions import TRANSITIONS, transitions


def measured(image_id: int, generator: np.random.Generator) -> MeasuredImage:
    """Return an image with three layers that predict the GT, and one query with empty masks."""
    masks = torch.zeros(3, 64, 96, dtype=torch.bool)
    for mask in masks:
        y, x = generator.integers(0, 40), generator.integers(0, 60)
        mask[y : y + 20, x : x + 24] = True
    target = Target(labels=torch.tensor([0, 1, 0]), masks=masks)
    fine = masks.unflatten(1, (16, 4)).unflatten(3, (24, 4)).float().mean((2, 4)) > 0.5
    empty = torch.zeros(1, 16, 24, dtype=torch.bool)
    mask_logits = torch.cat([fine, empty]).float().mul(20).sub(10).expand(3, 1, 4, 16, 24)
    class_logits = torch.full((3, 1, 4, 3), -9.0)
    for query, label in enumerate((0, 1, 0, 2)):
        class_logits[:, :, query, label] = 9
    finite = finite_queries(class_logits, mask_logits)
    matches = match_with_costs(class_logits, mask_logits, [target], finite)
    rows = image_rows(
        class_logits[:, 0], mask_logits[:, 0], target, matches.assignment[:, 0], (16, 24)
    )
    own = type(matches)(*(getattr(matches, name)[:, 0] for name in matches.__slots__))
    sample = Sample(image_id, "x.jpg", torch.zeros(3, 64, 96), masks, target["labels"], (64, 96))
    return MeasuredImage(sample, rows, own, {})


def test_predictions_equal_to_gt_have_perfect_metrics(
    database: Callable[..., duckdb.DuckDBPyConnection],
) -> None:
    generator = np.random.default_rng(0)
    images = [measured(image_id, generator) for image_id in range(5)]
    classes = [ClassInfo(1, "a"), ClassInfo(2, "b")]
    tables = {
        "queries": [queries_table(image) for image in images],
        "targets": [targets_table(image, classes) for image in images],
        "images": [images_table(image) for image in images],
    }
    connection = database({name: pa.concat_tables(parts) for name, parts in tables.items()})
    found = transitions(connection)
    counts = dict(zip(found["transition"], found["count"], strict=False))
    assert counts == {kind: 20 if kind == "kept" else 0 for kind in TRANSITIONS}
    assert (found["util_gain"] == 0).all() and found["empty"].sum() == 2 * 5
    layers = layer_metrics(connection)
    assert layers["instability"].dropna().tolist() == [0, 0]
    assert layers["match_stability"].dropna().tolist() == [1, 1]
    assert layers["matched_iou"].tolist() == layers["best_iou"].tolist()
    assert layers["matched_iou"].min() > 0.8
    assert layers["class_share"].max() < 0.01 and layers["duplicates"].tolist() == [0, 0, 0]
    assert layers["empty_masks"].tolist() == pytest.approx([1 / 4] * 3)
