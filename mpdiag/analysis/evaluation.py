"""How good a run's layers are, from the detections that it kept."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import duckdb
import torch

from mpdiag.data import SegmentationDataset
from mpdiag.evaluation import Evaluator, Found, Scores
from mpdiag.store import RunWriter
from mpdiag.store.database import connect
from mpdiag.store.transitions import TRANSITIONS, classified

DETECTIONS = 100  # of an image at the most, as instance inference keeps them
IMAGES_AT_ONCE = 256

Row = list[Any]  # query, label, score, counts

_CHOSEN = f"""
SELECT image_id, query, label, score, counts
FROM detections LEFT JOIN (SELECT * FROM undone WHERE kind = $kind) USING (image_id, query)
WHERE layer = coalesce(reached, $layer) AND image_id IN (SELECT unnest($images))
WINDOW best AS (PARTITION BY image_id ORDER BY score DESC, query, label)
QUALIFY $kind IS NULL OR row_number() OVER best <= {DETECTIONS}
ORDER BY image_id, score DESC, query, label
"""

# Where a query stands once all its transitions of a class are undone: the last layer that another
# transition led to. One from or to a mask that is not finite has no class and stays.
_UNDONE = f"""
CREATE TEMP TABLE undone AS
SELECT image_id, query, undo.kind,
       coalesce(max(layer) FILTER (moves.kind IS DISTINCT FROM undo.kind), 0) AS reached
FROM queries LEFT JOIN ({classified()}) moves USING (image_id, layer, query)
CROSS JOIN (SELECT unnest($kinds) AS kind) undo
WHERE layer > 0 GROUP BY ALL HAVING reached < max(layer)
"""


def evaluation(
    writer: RunWriter, data: SegmentationDataset, *, every_layer: bool
) -> dict[str, Any]:
    """What summary.json says of quality: `ap`, `pq` or `miou` of the last layer, by the task.

    With `every_layer` also `layer_scores`, the same of each layer taken as the final one, and for
    instances `ap_gains`: how much AP the last layer would gain if every transition of a class were
    undone, that is if each query gave the detections of the last layer that a transition of another
    class led to (M^0 if there is none).
    """
    with connect(writer.path) as connection:
        num_layers = _last_layer(connection)
        connection.execute(_UNDONE, {"kinds": list(TRANSITIONS) if every_layer else []})
        last = _scores(connection, data, num_layers)
        headline = Evaluator(data).headline
        found: dict[str, Any] = {headline: last}
        if every_layer:
            before = [_scores(connection, data, layer) for layer in range(num_layers)]
            found["layer_scores"] = [
                {"layer": layer, **scores} for layer, scores in enumerate([*before, last])
            ]
        if every_layer and headline == "ap":
            found["ap_gains"] = {
                kind: _difference(_scores(connection, data, num_layers, kind)["ap"], last["ap"])
                for kind in TRANSITIONS
            }
    return found


def _last_layer(connection: duckdb.DuckDBPyConnection) -> int:
    row = connection.execute("SELECT coalesce(max(layer), 0) FROM queries").fetchone()
    assert row is not None
    return int(row[0])


def _difference(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value - base


def _scores(
    connection: duckdb.DuckDBPyConnection,
    data: SegmentationDataset,
    layer: int,
    undone: str | None = None,
) -> Scores:
    evaluator = Evaluator(data)
    index_of = {image_id: index for index, image_id in enumerate(data.image_ids)}
    for image_id, found in _images(connection, layer, undone):
        evaluator.update(index_of[image_id], found)
    return evaluator.scores()


def _images(
    connection: duckdb.DuckDBPyConnection, layer: int, undone: str | None
) -> Iterator[tuple[int, Found]]:
    """Each image of the run with what was found on it, which may be nothing."""
    images = connection.execute(
        "SELECT image_id, height, width FROM images ORDER BY image_id"
    ).fetchall()
    for start in range(0, len(images), IMAGES_AT_ONCE):
        some = images[start : start + IMAGES_AT_ONCE]
        chosen = {"layer": layer, "kind": undone, "images": [image_id for image_id, _, _ in some]}
        by_image: defaultdict[int, list[Row]] = defaultdict(list)
        for image_id, *row in connection.execute(_CHOSEN, chosen).fetchall():
            by_image[image_id].append(row)
        for image_id, height, width in some:
            yield image_id, _found(by_image[image_id], (height, width))


def _found(rows: list[Row], size: tuple[int, int]) -> Found:
    queries, labels, scores, counts = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Found(
        scores=torch.tensor(scores, dtype=torch.float64),
        labels=torch.tensor(labels, dtype=torch.int64),
        queries=torch.tensor(queries, dtype=torch.int64),
        size=size,
        counts=counts,
    )
