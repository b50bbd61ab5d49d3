"""Evaluate the layers of a run from the detections in its run directory."""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import torch

from mpdiag.data import SegmentationDataset, read_ahead
from mpdiag.errors import RunError
from mpdiag.evaluation import Detections, Evaluator, InstanceEvaluator, build_evaluator
from mpdiag.store.database import connect
from mpdiag.store.transitions import TRANSITIONS, transitions_sql

MAX_DETECTIONS = 100  # per image, as in instance inference
IMAGES_PER_QUERY = 32  # whose detections are read at once
IMAGES_PER_TASK = 8  # of a worker

Row = tuple[Any, ...]  # query, label, score, counts


class Variant(NamedTuple):
    """Predictions to evaluate: a layer; with `reverted`, after reverting these transitions."""

    layer: int
    reverted: str | None = None


_DETECTIONS = f"""
SELECT image_id, layer, NULL AS kind, query, label, score, counts FROM detections
WHERE layer >= $first AND image_id BETWEEN $low AND $high
UNION ALL
SELECT image_id, $last, kind, query, label, score, counts
FROM detections CROSS JOIN (SELECT unnest($kinds) AS kind)
LEFT JOIN reverted USING (image_id, query, kind)
WHERE layer = coalesce(reverted_to, $last) AND image_id BETWEEN $low AND $high
WINDOW best AS (PARTITION BY image_id, kind ORDER BY score DESC, query, label)
QUALIFY row_number() OVER best <= {MAX_DETECTIONS}
ORDER BY image_id, layer, kind, score DESC, query, label
"""

# The layer of each query after reverting all its transitions of a kind: the last layer that follows
# a transition of another kind. Transitions from or to a mask that is not finite have no kind.
_REVERTED = f"""
CREATE TEMP TABLE reverted AS
SELECT image_id, query, kinds.kind,
       coalesce(max(layer) FILTER (transitions.kind IS DISTINCT FROM kinds.kind), 0) AS reverted_to
FROM queries LEFT JOIN ({transitions_sql()}) transitions USING (image_id, layer, query)
CROSS JOIN (SELECT unnest($kinds) AS kind) kinds
WHERE layer > 0 GROUP BY ALL HAVING reverted_to < max(layer)
"""


def evaluate_run(
    path: Path, data: SegmentationDataset, *, every_layer: bool, workers: int = 0
) -> dict[str, Any]:
    """Compute the entries of summary.json on quality.

    Args:
        path: the run directory.
        data: its data set, whose GT is read image by image.
        every_layer: whether to evaluate every layer, not only the last.
        workers: number of processes that read GT and match detections; 0 does so in this process.

    Returns:
        `ap`, `pq` or `miou` of the last layer, depending on the task. With `every_layer` also
        `layer_scores`, the scores of each layer as if it were the last, and for instances
        `ap_gains`: for each kind of transition, the AP gained if every query reverted the
        transitions of that kind, that is if it gave the detections of the last layer that follows a
        transition of another kind (M^0 if there is none).

    Raises:
        DataError: an annotation is unreadable.
    """
    metric = build_evaluator(data).primary_metric
    with connect(path) as connection:
        last = _last_layer(connection)
        layers = [Variant(layer) for layer in range(last.layer + 1)] if every_layer else [last]
        kinds = TRANSITIONS if every_layer and metric == "ap" else ()
        reverted = [Variant(last.layer, kind) for kind in kinds]
        evaluators = _evaluate(connection, data, layers, reverted, workers)
        scores = {variant: evaluator.scores() for variant, evaluator in evaluators.items()}
    summary: dict[str, Any] = {metric: scores[last]}
    if every_layer:
        summary["layer_scores"] = [{"layer": x.layer, **scores[x]} for x in layers]
    if kinds:
        summary["ap_gains"] = {
            kind: _difference(scores[Variant(last.layer, kind)]["ap"], scores[last]["ap"])
            for kind in kinds
        }
    return summary


def resample_ap(
    path: Path, data: SegmentationDataset, draws: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the AP of the last layer for R samples of the run's images, (R,).

    Args:
        path: a run of instances.
        data: its data set.
        draws: (R, I), how often each image is drawn, in ascending order of the ids.
    """
    with connect(path) as connection:
        last = _last_layer(connection)
        evaluator = _evaluate(connection, data, [last], [])[last]
    if not isinstance(evaluator, InstanceEvaluator):
        raise RunError(
            f"{path}: has no AP, because its task is {data.task}; give a run of instances"
        )
    return evaluator.resample(draws)


def _last_layer(connection: duckdb.DuckDBPyConnection) -> Variant:
    row = connection.execute("SELECT coalesce(max(layer), 0) FROM queries").fetchone()
    assert row is not None
    return Variant(int(row[0]))


def _evaluate(
    connection: duckdb.DuckDBPyConnection,
    data: SegmentationDataset,
    layers: list[Variant],
    reverted: list[Variant],
    workers: int = 0,
) -> dict[Variant, Evaluator]:
    """Evaluate all variants in one pass over the images; `layers` end with the last layer."""
    variants = [*layers, *reverted]
    total: dict[Variant, Evaluator] = {variant: build_evaluator(data) for variant in variants}
    evaluate = partial(_evaluate_block, data, variants)
    blocks = _detections(connection, data, layers, reverted)
    for evaluators in read_ahead(evaluate, blocks, workers):
        for variant in variants:
            total[variant] += evaluators[variant]
    return total


class _ImageDetections(NamedTuple):
    """The detections of an image, given by its number in the data set, for each variant."""

    number: int
    size: tuple[int, int]
    rows: dict[Variant, list[Row]]


def _detections(
    connection: duckdb.DuckDBPyConnection,
    data: SegmentationDataset,
    layers: list[Variant],
    reverted: list[Variant],
) -> Iterator[list[_ImageDetections]]:
    """Yield the detections of all images in blocks."""
    kinds = [variant.reverted for variant in reverted]
    connection.execute(_REVERTED, {"kinds": kinds})
    index = {image_id: number for number, image_id in enumerate(data.image_ids)}
    images = connection.execute(
        "SELECT image_id, height, width FROM images ORDER BY image_id"
    ).fetchall()
    unknown = [image_id for image_id, *_ in images if image_id not in index]
    if unknown:
        raise RunError(
            f"image {unknown[0]} of the run is not in {data.annotations.path}; give its data set"
        )
    for start in range(0, len(images), IMAGES_PER_QUERY):
        block = images[start : start + IMAGES_PER_QUERY]
        values = {
            "first": layers[0].layer,
            "last": layers[-1].layer,
            "kinds": kinds,
            "low": block[0][0],
            "high": block[-1][0],
        }
        rows: defaultdict[int, defaultdict[Variant, list[Row]]]
        rows = defaultdict(lambda: defaultdict(list))
        for image_id, layer, kind, *row in connection.execute(_DETECTIONS, values).fetchall():
            rows[image_id][Variant(layer, kind)].append(tuple(row))
        found = [
            _ImageDetections(index[image_id], (height, width), dict(rows[image_id]))
            for image_id, height, width in block
        ]
        for first in range(0, len(found), IMAGES_PER_TASK):
            yield found[first : first + IMAGES_PER_TASK]


def _evaluate_block(
    data: SegmentationDataset, variants: list[Variant], block: list[_ImageDetections]
) -> dict[Variant, Evaluator]:
    """Return evaluators of the images of a block."""
    evaluators: dict[Variant, Evaluator] = {variant: build_evaluator(data) for variant in variants}
    for image in block:
        ground_truth, image_id = data.ground_truth(image.number), data.image_ids[image.number]
        for variant, evaluator in evaluators.items():
            found = _from_rows(image.rows.get(variant, []), image.size)
            evaluator.update(image_id, found, ground_truth)
    return evaluators


def _difference(value: float | None, baseline: float | None) -> float | None:
    return None if value is None or baseline is None else value - baseline


def _from_rows(rows: list[Row], size: tuple[int, int]) -> Detections:
    queries, labels, scores, counts = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Detections(
        scores=torch.tensor(scores, dtype=torch.float64),
        labels=torch.tensor(labels, dtype=torch.int64),
        queries=torch.tensor(queries, dtype=torch.int64),
        size=size,
        counts=counts,
    )
