"""How masks and matches of one layer relate to those before, and to the GT: one row a layer."""

from dataclasses import dataclass

import duckdb
import pandas as pd

from mpdiag.store.database import SCALE


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `consistency`: its label in reports, and what it is."""

    label: str
    meaning: str
    fraction: bool = True


COLUMNS = {
    "empty_masks": Column("Empty masks", "share of masks without a cell"),
    "instability": Column("Matches changed per image", "DN-DETR's IS", fraction=False),
    "match_stability": Column("GT that keep their query", "from the layer before"),
    "matched_iou": Column("IoU of matched masks", "with the GT that they match"),
    "best_iou": Column("IoU of the best masks", "of each GT, whichever query has it"),
    "margin": Column("Match margin", "second-best minus assigned cost", fraction=False),
    "class_share": Column("Class share of the cost", "of matched pairs"),
    "mask_share": Column("Mask share of the cost", "of matched pairs"),
    "dice_share": Column("Dice share of the cost", "of matched pairs"),
    "duplicates": Column("Duplicates among the best", "of as many queries as there are GT"),
    "non_finite": Column("Predictions not finite", "number", fraction=False),
}

DUPLICATE_IOU = 0.5

_QUERIES = """
SELECT layer,
       count(*) FILTER (area = 0) / nullif(count(area), 0) AS empty_masks,
       exact_mean(matched_gt_iou) AS matched_iou,
       exact_mean(margin) AS margin,
       sum(fixed(class_cost)) / nullif(sum(fixed(class_cost + mask_cost + dice_cost)), 0)
           AS class_share,
       sum(fixed(mask_cost)) / nullif(sum(fixed(class_cost + mask_cost + dice_cost)), 0)
           AS mask_share,
       sum(fixed(dice_cost)) / nullif(sum(fixed(class_cost + mask_cost + dice_cost)), 0)
           AS dice_share,
       count(*) - count(area) AS non_finite
FROM queries GROUP BY layer
"""

_INSTABILITY = """
SELECT now.layer, count(*) FILTER (now.matched_gt <> before.matched_gt)
       / (SELECT nullif(count(*), 0) FROM images) AS instability
FROM queries now JOIN queries before
    ON now.image_id = before.image_id AND now.query = before.query
    AND now.layer = before.layer + 1
GROUP BY now.layer
"""

_TARGETS = f"""
WITH owners AS (
    SELECT image_id, unnest(matched_query) AS owner, unnest(best_query_iou) AS best_iou,
           unnest(list_prepend(NULL, matched_query[:-2])) AS owner_before,
           generate_subscripts(matched_query, 1) - 1 AS layer
    FROM targets
),
of_images AS (
    SELECT layer, image_id, sum(fixed(best_iou)) AS best_iou, count(best_iou) AS gt,
           count(*) FILTER (owner = owner_before AND owner <> -1)
               / nullif(count(owner_before), 0) AS kept
    FROM owners GROUP BY layer, image_id
)
SELECT layer, exact_mean(kept) AS match_stability,
       sum(best_iou) / nullif(sum(gt), 0) / {SCALE} AS best_iou
FROM of_images GROUP BY layer
"""

_DUPLICATES = f"""
WITH ranked AS (
    SELECT layer, q.image_id, query, score, num_gt,
           row_number() OVER (PARTITION BY q.image_id, layer ORDER BY score DESC, query) AS place,
           CASE WHEN best_gt_iou >= {DUPLICATE_IOU} AND q.label = t.label THEN best_gt END AS found
    FROM queries q JOIN images USING (image_id)
    LEFT JOIN targets t ON q.image_id = t.image_id AND q.best_gt = t.gt
    WHERE score IS NOT NULL
),
top AS (
    SELECT layer, found IS NOT NULL AND row_number() OVER (
        PARTITION BY image_id, layer, found ORDER BY score DESC, query) > 1 AS again
    FROM ranked WHERE place <= num_gt
)
SELECT layer, count(*) FILTER (again) / count(*) AS duplicates FROM top GROUP BY layer
"""


def consistency(connection: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """One row for each layer 0..L; NaN where there is nothing to average. For image i of the sums:

    - `empty_masks`: share of masks without a cell. Such a query attends everywhere in the layer
      that follows (Mask2Former, section 3.2.1; its attention masks are read at coarser strides).
    - `instability`: (1 / images) Σ_images Σ_n 1[V_n^i ≠ V_n^{i-1}], of DN-DETR (CVPR 2022,
      section 3.2), where i counts epochs; here it counts layers. From 0 to twice the GT.
    - `match_stability`: (1 / O) Σ_n 1[V_n^i = V_n^{i-1} ≠ -1], averaged over images with GT: Util
      with the layer before in place of the last, for the question of Stable-DINO (ICCV 2023).
    - `matched_iou`: IoU of a matched mask with its GT, averaged over all matches.
    - `best_iou`: highest IoU that any query has with a GT, averaged over all GT.
    - `margin`: least cost of a GT with another query minus its cost, averaged over matches.
    - `class_share`, `mask_share`, `dice_share`: Σ of the term / Σ of the cost, over matches, where
      the class term is weight times (1 - p).
    - `duplicates`: of an image's O most confident queries, the share whose best GT (IoU >= 0.5,
      of the query's class) a more confident one has too: TIDE's duplicate error (ECCV 2020).
    - `non_finite`: number of predictions with NaN or infinity; nothing above counts them.
    """
    table = connection.execute(_QUERIES).df()
    for sql in (_INSTABILITY, _TARGETS, _DUPLICATES):
        table = table.merge(connection.execute(sql).df(), how="left", on="layer")
    return table[["layer", *COLUMNS]].sort_values("layer", ignore_index=True)


def oracle(connection: duckdb.DuckDBPyConnection) -> dict[str, float | None]:
    """What the best layer of each GT would give, as the mean over all GT.

    `matched_iou`: max over layers of the IoU with the query that the GT matches there, 0 where it
    matches none. `best_iou`: max over layers and queries. What a layer falls short of the first is
    lost by later layers; the second minus the first is lost by the match.
    """
    row = connection.execute("""
        SELECT exact_mean(coalesce(matched, 0)), exact_mean(list_max(best_query_iou))
        FROM targets LEFT JOIN (
            SELECT image_id, matched_gt AS gt, max(matched_gt_iou) AS matched
            FROM queries WHERE matched_gt >= 0 GROUP BY ALL
        ) USING (image_id, gt)
    """).fetchone()
    assert row is not None
    return dict(zip(("matched_iou", "best_iou"), row, strict=True))
