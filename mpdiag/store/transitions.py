"""What happens to a query's mask from one layer to the next, as one of eight named classes."""

import duckdb
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from mpdiag.store.database import SCALE

TRANSITIONS = {
    "kept": "nearly the same mask, or empty before and after",
    "refined": "another mask that fits its best object better",
    "drifted": "another mask that fits no object better",
    "switched": "from one object to another",
    "merged": "holds several objects now, and did not before",
    "split": "held several objects before, and no longer does",
    "vanished": "empty now, and was not before",
    "appeared": "was empty before, and no longer is",
}
"""Class -> what it means; docs/metrics.md has the rules."""


class Thresholds(BaseModel):
    """Where the classes part; shares and IoUs in 0..1.

    Attributes:
        kept_iou: from this IoU(M^{i-1}, M^i) on a mask is the same.
        object_iou: from this IoU with its best GT on a mask is on that object; below it is
            background, as in TIDE (ECCV 2020), whose value this is.
        several: from this share of a second GT's cells on a mask holds several objects.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kept_iou: float = Field(0.9, gt=0, le=1)
    object_iou: float = Field(0.1, gt=0, le=1)
    several: float = Field(0.5, gt=0, le=1)


DEFAULT = Thresholds()


def transitions_sql(thresholds: Thresholds = DEFAULT, rows: str = "queries") -> str:
    """SQL of all transitions: image_id, layer, query, kind, empty, and both layers' match.

    `rows` is a table of all the rows of `queries`, or of some. Both masks must be finite. The
    rules are tried in order, and the last takes all that is left, so every transition has exactly
    one class.
    """
    keep, found, several = thresholds.kept_iou, thresholds.object_iou, thresholds.several
    return f"""
    SELECT now.image_id, now.layer, now.query, now.matched_gt, before.matched_gt AS matched_before,
           now.area = 0 AND before.area = 0 AS empty,
           CASE
               WHEN now.area = 0 AND before.area = 0 THEN 'kept'
               WHEN now.area = 0 THEN 'vanished'
               WHEN before.area = 0 THEN 'appeared'
               WHEN now.iou_prev >= {keep!r} THEN 'kept'
               WHEN now.second_coverage >= {several!r}
                    AND before.second_coverage < {several!r} THEN 'merged'
               WHEN now.second_coverage < {several!r}
                    AND before.second_coverage >= {several!r} THEN 'split'
               WHEN now.best_gt_iou >= {found!r} AND before.best_gt_iou >= {found!r}
                    AND now.best_gt <> before.best_gt THEN 'switched'
               WHEN now.best_gt_iou > before.best_gt_iou THEN 'refined'
               ELSE 'drifted'
           END AS kind
    FROM {rows} now JOIN {rows} before
        ON now.image_id = before.image_id AND now.query = before.query
        AND now.layer = before.layer + 1
    WHERE now.area IS NOT NULL AND before.area IS NOT NULL
    """


def transition_counts_sql(thresholds: Thresholds = DEFAULT) -> str:
    """SQL of how often each class happens in each image and layer, where it does.

    Columns: image_id, layer, kind, count, empty (of the count, with two empty masks), and gained:
    how many more GT would have their query of the last layer, had these queries kept their match.
    """
    return f"""
    WITH moves AS ({transitions_sql(thresholds)}),
    last AS (
        SELECT image_id, query, matched_gt AS final FROM queries
        WHERE layer = (SELECT max(layer) FROM queries)
    )
    SELECT image_id, layer, kind, count(*) AS count, count(*) FILTER (empty) AS empty,
           (count(*) FILTER (matched_before = final AND final <> -1)
            - count(*) FILTER (matched_gt = final AND final <> -1)) AS gained
    FROM moves JOIN last USING (image_id, query) GROUP BY ALL
    """


def transitions(
    connection: duckdb.DuckDBPyConnection, of_images: str = transition_counts_sql()
) -> pd.DataFrame:
    """How often each class happens in each layer 1..L, and what Util would gain without it.

    Columns: `layer`, `transition` (in the order of `TRANSITIONS`), `count`, `empty` (how many of
    them have two empty masks), `share` of the layer's transitions, and `util_gain`: by how much
    Util^i would rise if the queries of the class had kept the match of layer i - 1, with V^L as it
    is. In signs, the mean over images with GT of

        (1 / O) Σ_n (1[V_n^{i-1} = V_n^L ≠ -1] - 1[V_n^i = V_n^L ≠ -1]), n of the class.

    It is below 0 where the transition is for the better, and never clamped; over all classes it
    sums to Util^{i-1} - Util^i. TIDE asks the same of the errors of detection.

    Args:
        connection: to the rows.
        of_images: SQL that gives what `transition_counts_sql` gives.
    """
    table = connection.execute(f"""
        WITH of_images AS ({of_images})
        SELECT layer, kind AS transition, sum(count)::BIGINT AS count, sum(empty)::BIGINT AS empty,
               sum(fixed(gained / greatest(num_gt, 1))) / {SCALE}
               / (SELECT count(*) FROM images WHERE num_gt > 0) AS util_gain
        FROM of_images JOIN images USING (image_id) GROUP BY ALL
    """).df()
    every = pd.MultiIndex.from_product(
        [sorted(table["layer"].unique()), TRANSITIONS], names=["layer", "transition"]
    )
    table = table.set_index(["layer", "transition"]).reindex(every, fill_value=0).reset_index()
    of_layer = table.groupby("layer")["count"].transform("sum")
    table.insert(4, "share", table["count"] / of_layer)
    return table
