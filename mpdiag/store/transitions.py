"""Transitions: the change of a query's mask between adjacent layers, as one of eight classes."""

import duckdb
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from mpdiag.store.database import SCALE

TRANSITIONS = {
    "kept": "nearly the same mask, or both empty",
    "refined": "different mask, higher IoU with its best object",
    "drifted": "different mask, no higher IoU with any object",
    "switched": "moved from one object to another",
    "merged": "covers several objects, did not before",
    "split": "covered several objects, no longer does",
    "vanished": "became empty",
    "appeared": "was empty",
}
"""Class -> meaning; docs/metrics.md has the rules."""


class Thresholds(BaseModel):
    """Thresholds of the classes, in 0..1.

    Attributes:
        kept_iou: lowest IoU(M^{i-1}, M^i) of masks that count as the same.
        object_iou: lowest IoU with its best GT of a mask that counts as on that object; others are
            background. The default is that of TIDE (ECCV 2020).
        several: lowest share of a second GT's cells of a mask that counts as covering several
            objects.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kept_iou: float = Field(0.9, gt=0, le=1)
    object_iou: float = Field(0.1, gt=0, le=1)
    several: float = Field(0.5, gt=0, le=1)


DEFAULT = Thresholds()


def transitions_sql(thresholds: Thresholds = DEFAULT, rows: str = "queries") -> str:
    """Return the SQL of all transitions.

    Columns: image_id, layer, query, matched_gt, matched_before (match in the layer before), empty
    (both masks are empty), kind (the class). Pairs with a mask that is not finite are left out. The
    first rule that holds gives the class.

    Args:
        thresholds: of the classes.
        rows: table with the rows of `queries`, or some of them.
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
    """Return the SQL of the counts of each class in each image and layer; zero counts are left out.

    Columns: image_id, layer, kind, count, empty (those with two empty masks), and gained: how many
    more GT would match their query of the last layer if these queries had kept their match.
    """
    return f"""
    WITH all_transitions AS ({transitions_sql(thresholds)}),
    last AS (
        SELECT image_id, query, matched_gt AS final FROM queries
        WHERE layer = (SELECT max(layer) FROM queries)
    )
    SELECT image_id, layer, kind, count(*) AS count, count(*) FILTER (empty) AS empty,
           (count(*) FILTER (matched_before = final AND final <> -1)
            - count(*) FILTER (matched_gt = final AND final <> -1)) AS gained
    FROM all_transitions JOIN last USING (image_id, query) GROUP BY ALL
    """


def transitions(
    connection: duckdb.DuckDBPyConnection, image_counts: str = transition_counts_sql()
) -> pd.DataFrame:
    """Return the count of each class in each layer 1..L, and what Util would gain without it.

    Columns: `layer`, `transition` (in the order of `TRANSITIONS`), `count`, `empty` (those with two
    empty masks), `share` of the layer's transitions, and `util_gain`: the increase of Util^i if the
    queries of the class had kept the match of layer i - 1, with V^L unchanged. That is the mean
    over images with GT of

        (1 / O) Σ_n (1[V_n^{i-1} = V_n^L ≠ -1] - 1[V_n^i = V_n^L ≠ -1]), n of the class.

    It is negative if the transitions improve Util. Over all classes it sums to Util^{i-1} - Util^i.
    TIDE (ECCV 2020) measures detection errors in the same way.

    Args:
        connection: the rows.
        image_counts: SQL with the columns of `transition_counts_sql`.
    """
    table = connection.execute(f"""
        WITH image_counts AS ({image_counts})
        SELECT layer, kind AS transition, sum(count)::BIGINT AS count, sum(empty)::BIGINT AS empty,
               sum(fixed(gained / greatest(num_gt, 1))) / {SCALE}
               / (SELECT count(*) FROM images WHERE num_gt > 0) AS util_gain
        FROM image_counts JOIN images USING (image_id) GROUP BY ALL
    """).df()
    every = pd.MultiIndex.from_product(
        [sorted(table["layer"].unique()), TRANSITIONS], names=["layer", "transition"]
    )
    table = table.set_index(["layer", "transition"]).reindex(every, fill_value=0).reset_index()
    of_layer = table.groupby("layer")["count"].transform("sum")
    table.insert(4, "share", table["count"] / of_layer)
    return table
