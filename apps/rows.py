"""What the Inspector asks of a run's rows, by SQL."""

from dataclasses import dataclass

import pandas as pd

from mpdiag.errors import RunError
from mpdiag.store import Run

_KEPT = """
WITH kept AS (
    SELECT image_id, index AS query, max(badness) AS badness
    FROM masks WHERE kind = 'query' GROUP BY ALL
),
worst AS (
    SELECT image_id, query, min(iou_prev) AS iou,
           arg_min(layer, row(iou_prev, layer)) AS layer
    FROM queries SEMI JOIN kept USING (image_id, query)
    WHERE iou_prev IS NOT NULL GROUP BY ALL
)
SELECT image_id, query, file_name, worst.iou AS worst_iou, worst.layer AS worst_layer
FROM kept
LEFT JOIN worst USING (image_id, query)
LEFT JOIN images USING (image_id)
ORDER BY badness DESC NULLS LAST, worst_iou NULLS LAST, image_id, query
"""

_QUERY = """
SELECT layer, iou_prev, matched_gt, targets.label AS matched_label, queries.label, score
FROM queries
LEFT JOIN targets ON targets.image_id = queries.image_id AND targets.gt = matched_gt
WHERE queries.image_id = ? AND query = ?
ORDER BY layer
"""

_TARGETS = "SELECT gt, label, matched_query FROM targets WHERE image_id = ? ORDER BY gt"


@dataclass(frozen=True, slots=True)
class Layer:
    """A query's prediction M^index."""

    index: int
    iou_prev: float | None
    """IoU with the mask of the layer before; None for the first, and where both are empty."""
    matched_gt: int
    """The GT that it matches, or -1."""
    matched_label: int | None
    """The class of that GT."""
    label: int
    """The predicted class."""
    score: float


def kept_queries(run: Run) -> pd.DataFrame:
    """The queries whose masks were kept, worst first.

    Columns: image_id, query, file_name, worst_iou (lowest IoU of two consecutive masks; null where
    there is none), worst_layer (the later of the two).
    """
    return run.query(_KEPT)


def layers_of(run: Run, image_id: int, query: int) -> list[Layer]:
    """A query's layers 0..L. RunError where the run has no such query."""
    rows = run.query(_QUERY, [image_id, query]).astype(object)
    if len(rows) != run.num_layers + 1:
        raise RunError(f"{run.path} has no rows of image {image_id}, query {query}: analyse again")
    return [Layer(*row) for row in rows.where(rows.notna(), None).itertuples(index=False)]


def targets_of(run: Run, image_id: int) -> pd.DataFrame:
    """One row for each GT of an image: gt, label, matched_query (a list over layers 0..L)."""
    return run.query(_TARGETS, [image_id])


def size_of(run: Run, image_id: int) -> tuple[int, int]:
    """Height and width of an image. RunError where the run has no such image."""
    rows = run.query("SELECT height, width FROM images WHERE image_id = ?", [image_id])
    if rows.empty:
        raise RunError(f"{run.path} has no image {image_id}: analyse again")
    return int(rows["height"][0]), int(rows["width"][0])
