"""Evaluate the layers of a run from the detections in its run directory."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import torch

from mpdiag.analysis.ground_truth import GroundTruthCache
from mpdiag.data import SegmentationDataset
from mpdiag.evaluation import Detections, Scores, build_evaluator
from mpdiag.store.database import connect
from mpdiag.store.transitions import TRANSITIONS, transitions_sql

MAX_DETECTIONS = 100  # per image, as in instance inference
IMAGES_PER_QUERY = 256

Row = list[Any]  # query, label, score, counts

_DETECTIONS = f"""
SELECT image_id, query, label, score, counts
FROM detections
LEFT JOIN (SELECT * FROM reverted WHERE kind = $kind) USING (image_id, query)
WHERE layer = coalesce(reverted_to, $layer) AND image_id IN (SELECT unnest($images))
WINDOW best AS (PARTITION BY image_id ORDER BY score DESC, query, label)
QUALIFY $kind IS NULL OR row_number() OVER best <= {MAX_DETECTIONS}
ORDER BY image_id, score DESC, query, label
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


class RunEvaluation:
    """Scores of the layers of a run."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        data: SegmentationDataset,
        ground_truth: GroundTruthCache,
    ) -> None:
        self.connection = connection
        self.data = data
        self.ground_truth = ground_truth

    def scores(self, layer: int, reverted: str | None = None) -> Scores:
        """Score a layer; with `reverted`, after reverting the transitions of this kind."""
        evaluator = build_evaluator(self.data)
        for image_id, detections in self._detections(layer, reverted):
            evaluator.update(image_id, detections, self.ground_truth.get(image_id))
        return evaluator.scores()

    def _detections(self, layer: int, reverted: str | None) -> Iterator[tuple[int, Detections]]:
        """Yield the id and detections of each image, also of images without detections."""
        images = self.connection.execute(
            "SELECT image_id, height, width FROM images ORDER BY image_id"
        ).fetchall()
        for start in range(0, len(images), IMAGES_PER_QUERY):
            block = images[start : start + IMAGES_PER_QUERY]
            values = {"layer": layer, "kind": reverted, "images": [row[0] for row in block]}
            by_image: defaultdict[int, list[Row]] = defaultdict(list)
            for image_id, *row in self.connection.execute(_DETECTIONS, values).fetchall():
                by_image[image_id].append(row)
            for image_id, height, width in block:
                yield image_id, _from_rows(by_image[image_id], (height, width))


def evaluate_run(
    path: Path, data: SegmentationDataset, ground_truth: GroundTruthCache, *, every_layer: bool
) -> dict[str, Any]:
    """Compute the entries of summary.json on quality.

    Args:
        path: the run directory.
        data: its data set.
        ground_truth: the GT of the data set.
        every_layer: whether to evaluate every layer, not only the last.

    Returns:
        `ap`, `pq` or `miou` of the last layer, depending on the task. With `every_layer` also
        `layer_scores`, the scores of each layer as if it were the last, and for instances
        `ap_gains`: for each kind of transition, the AP gained if every query reverted the
        transitions of that kind, that is if it gave the detections of the last layer that follows a
        transition of another kind (M^0 if there is none).
    """
    with connect(path) as connection:
        row = connection.execute("SELECT coalesce(max(layer), 0) FROM queries").fetchone()
        assert row is not None
        num_layers = int(row[0])
        connection.execute(_REVERTED, {"kinds": list(TRANSITIONS) if every_layer else []})
        run = RunEvaluation(connection, data, ground_truth)
        last = run.scores(num_layers)
        metric = build_evaluator(data).primary_metric
        summary: dict[str, Any] = {metric: last}
        if every_layer:
            scores = [*(run.scores(layer) for layer in range(num_layers)), last]
            summary["layer_scores"] = [
                {"layer": layer, **values} for layer, values in enumerate(scores)
            ]
        if every_layer and metric == "ap":
            summary["ap_gains"] = {
                kind: _difference(run.scores(num_layers, kind)["ap"], last["ap"])
                for kind in TRANSITIONS
            }
    return summary


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
