"""SQL queries of the Transitions page: counts and examples of each class of transition."""

import pandas as pd

from apps.runs import LoadedRun, cached
from mpdiag.store.transitions import transitions_sql

MAX_IMAGES = 24
"""Number of images that are searched for examples."""

_IMAGES = f"""
WITH with_masks AS (SELECT DISTINCT image_id FROM masks WHERE kind = 'query')
SELECT image_id FROM image_transitions
WHERE kind = ? AND layer = ?
ORDER BY image_id IN (FROM with_masks) DESC, count DESC, image_id LIMIT {MAX_IMAGES}
"""

_EXAMPLES = f"""
WITH candidates AS (
    SELECT * FROM queries WHERE image_id IN (SELECT unnest(?)) AND layer IN (?, ?)
),
saved AS (SELECT DISTINCT image_id, index AS query, true AS saved FROM masks WHERE kind = 'query'),
transitions AS ({transitions_sql(rows="candidates")})
SELECT image_id, file_name, query, coalesce(saved, false) AS saved, now.iou_prev AS iou,
       before.best_gt_iou AS gt_iou_before, now.best_gt_iou AS gt_iou_after,
       before.best_gt AS gt_before, now.best_gt AS gt_after
FROM transitions
JOIN candidates now USING (image_id, layer, query)
JOIN candidates before ON before.image_id = now.image_id AND before.query = now.query
    AND before.layer = now.layer - 1
JOIN images USING (image_id)
LEFT JOIN saved USING (image_id, query)
WHERE transitions.kind = ?
QUALIFY row_number() OVER (
    PARTITION BY image_id ORDER BY saved DESC NULLS LAST, now.matched_gt >= 0 DESC, iou, query) = 1
ORDER BY saved DESC, now.matched_gt >= 0 DESC, iou, image_id LIMIT ?
"""


@cached
def transition_counts(loaded: LoadedRun) -> pd.DataFrame:
    """Return `Run.transitions()`: how often each class occurs in each layer."""
    return loaded.run.transitions()


@cached
def transition_examples(loaded: LoadedRun, kind: str, layer: int, count: int) -> pd.DataFrame:
    """Return transitions of a class into a layer, at most one per image.

    Queries with saved masks come first, then queries that match a GT, then the lowest IoU. Columns:
    image_id, file_name, query, saved (whether the masks are saved), iou of the two masks, and for
    the layer before and after: gt_iou_before and gt_iou_after (IoU with the best GT), gt_before and
    gt_after (that GT).
    """
    images = loaded.run.query(_IMAGES, [kind, layer])["image_id"].tolist()
    return loaded.run.query(_EXAMPLES, [images, layer - 1, layer, kind, count])
