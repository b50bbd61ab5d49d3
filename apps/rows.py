"""What the page asks of a run's rows, by SQL."""

import pandas as pd

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
),
final AS (
    SELECT image_id, query, matched_gt FROM queries WHERE layer = ?
)
SELECT image_id, query, file_name, worst.iou AS worst_iou, worst.layer AS worst_layer,
       coalesce(matched_gt, -1) AS final_gt
FROM kept
LEFT JOIN worst USING (image_id, query)
LEFT JOIN final USING (image_id, query)
LEFT JOIN images USING (image_id)
ORDER BY badness DESC NULLS LAST, worst_iou NULLS LAST, image_id, query
"""

_QUERY = """
SELECT layer, iou_prev, area, matched_gt, targets.label AS matched_label, queries.label, score
FROM queries
LEFT JOIN targets ON targets.image_id = queries.image_id AND targets.gt = matched_gt
WHERE queries.image_id = ? AND query = ?
ORDER BY layer
"""

_TARGETS = """
SELECT gt, label, area, matched_query FROM targets WHERE image_id = ? ORDER BY gt
"""


def kept_queries(run: Run) -> pd.DataFrame:
    """The queries whose masks were kept, worst first.

    Columns: image_id, query, file_name, worst_iou (lowest IoU of two consecutive masks; null where
    there is none), worst_layer (the later of the two), final_gt (-1: none in the last layer).
    """
    return run.query(_KEPT, [run.num_layers])


def layers_of(run: Run, image_id: int, query: int) -> pd.DataFrame:
    """One row for each layer 0..L of a query.

    Columns: layer, iou_prev, area, matched_gt, matched_label (class of that GT), label, score.
    """
    return run.query(_QUERY, [image_id, query])


def targets_of(run: Run, image_id: int) -> pd.DataFrame:
    """One row for each GT of an image: gt, label, area, matched_query (list over layers)."""
    return run.query(_TARGETS, [image_id])
