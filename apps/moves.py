"""What the page Transitions asks of a run's rows: how often each class happens, and where."""

import pandas as pd

from apps.runs import Loaded, cached
from mpdiag.store.transitions import classified

IMAGES_LOOKED_AT = 24

_IMAGES = f"""
WITH pictured AS (SELECT DISTINCT image_id FROM masks WHERE kind = 'query')
SELECT image_id FROM image_transitions
WHERE kind = ? AND layer = ?
ORDER BY image_id IN (FROM pictured) DESC, count DESC, image_id LIMIT {IMAGES_LOOKED_AT}
"""

_EXAMPLES = f"""
WITH chosen AS (SELECT * FROM queries WHERE image_id IN (SELECT unnest(?)) AND layer IN (?, ?)),
kept AS (SELECT DISTINCT image_id, index AS query, true AS kept FROM masks WHERE kind = 'query'),
moves AS ({classified(rows="chosen")})
SELECT image_id, file_name, query, coalesce(kept, false) AS kept, now.iou_prev AS iou,
       before.best_gt_iou AS fit_before, now.best_gt_iou AS fit_after,
       before.best_gt AS gt_before, now.best_gt AS gt_after
FROM moves
JOIN chosen now USING (image_id, layer, query)
JOIN chosen before ON before.image_id = now.image_id AND before.query = now.query
    AND before.layer = now.layer - 1
JOIN images USING (image_id)
LEFT JOIN kept USING (image_id, query)
WHERE moves.kind = ?
QUALIFY row_number() OVER (
    PARTITION BY image_id ORDER BY kept DESC NULLS LAST, now.matched_gt >= 0 DESC, iou, query) = 1
ORDER BY kept DESC, now.matched_gt >= 0 DESC, iou, image_id LIMIT ?
"""


@cached
def counts(one: Loaded) -> pd.DataFrame:
    """How often each class happens in each layer; see `Run.transitions`, with its errors."""
    return one.run.transitions()


@cached
def examples(one: Loaded, kind: str, layer: int, count: int) -> pd.DataFrame:
    """Transitions of a class into a layer, at most one of an image; with kept masks first.

    Then come queries that match a GT, and those whose masks change most. Columns: image_id,
    file_name, query, kept (whether its masks are), iou of both masks, and of the layer before and
    of this one, fit_before and fit_after (IoU with the best GT), gt_before and gt_after (that GT).
    """
    images = one.run.query(_IMAGES, [kind, layer])["image_id"].tolist()
    return one.run.query(_EXAMPLES, [images, layer - 1, layer, kind, count])
