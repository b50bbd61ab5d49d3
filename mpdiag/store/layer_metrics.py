"""The metrics of a layer, each declared once; summary, reports and dashboard iterate over them.

To add a metric, add one `LayerMetric` to `_METRICS` and one row to docs/metrics.md.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType
from typing import Literal

import duckdb
import numpy as np
import pandas as pd

from mpdiag.store.bootstrap import Floats, Terms
from mpdiag.store.database import SCALE, image_ids

Unit = Literal["fraction", "correlation", "count", "cost"]

DUPLICATE_IOU = 0.5

# Each table below has the columns `image_id` and `layer`, and those that its metrics use.

_QUERIES = "FROM queries"

_PAIRS = """
SELECT image_id, layer, iou_prev, (image_id, query) IN (
    SELECT (image_id, query) FROM queries
    WHERE layer = (SELECT max(layer) FROM queries) AND matched_gt >= 0
) AS matched
FROM queries WHERE layer >= 1 AND area IS NOT NULL AND area_prev IS NOT NULL
"""

_UTIL = """
SELECT image_id, generate_subscripts(util, 1) - 1 AS layer, unnest(util) AS util
FROM images WHERE num_gt > 0
"""

_CHANGES = """
SELECT image_id, layer, coalesce(changes, 0) AS changes
FROM images CROSS JOIN (FROM layers WHERE layer >= 1) LEFT JOIN (
    SELECT image_id, now.layer, count(*) FILTER (now.matched_gt <> before.matched_gt) AS changes
    FROM queries now JOIN queries before USING (image_id, query)
    WHERE now.layer = before.layer + 1 GROUP BY ALL
) USING (image_id, layer)
"""

_TARGETS = """
SELECT image_id, generate_subscripts(matched_query, 1) - 1 AS layer,
       unnest(best_query_iou) AS best_iou, unnest(matched_query) AS owner,
       unnest(list_prepend(NULL, matched_query[:-2])) AS owner_before
FROM targets
"""

_KEPT = f"""
SELECT image_id, layer, count(*) FILTER (owner = owner_before AND owner <> -1)
       / nullif(count(owner_before), 0) AS kept
FROM ({_TARGETS}) GROUP BY ALL
"""

_MOST_CONFIDENT = f"""
SELECT image_id, layer, found IS NOT NULL AND row_number() OVER (
    PARTITION BY image_id, layer, found ORDER BY score DESC, query) > 1 AS duplicate
FROM (
    SELECT layer, q.image_id, query, score, num_gt,
           row_number() OVER (PARTITION BY q.image_id, layer ORDER BY score DESC, query) AS place,
           CASE WHEN best_gt_iou >= {DUPLICATE_IOU} AND q.label = t.label THEN best_gt END AS found
    FROM queries q JOIN images USING (image_id)
    LEFT JOIN targets t ON q.image_id = t.image_id AND q.best_gt = t.gt
    WHERE score IS NOT NULL
) WHERE place <= num_gt
"""

# Spearman's coefficient is the correlation of average ranks. Twice an average rank is an integer,
# so the sums are exact for any order of the rows.
_RANK_CORRELATION = """
SELECT image_id, layer, (count(*) * sum(x * y) - sum(x) * sum(y)) / nullif(sqrt(
    (count(*) * sum(x * x) - sum(x) * sum(x))::DOUBLE
    * (count(*) * sum(y * y) - sum(y) * sum(y))::DOUBLE), 0) AS correlation
FROM (
    SELECT image_id, layer,
           2 * rank() OVER (PARTITION BY image_id, layer ORDER BY score)
           + count(*) OVER (PARTITION BY image_id, layer, score) - 1 AS x,
           2 * rank() OVER (PARTITION BY image_id, layer ORDER BY best_gt_iou)
           + count(*) OVER (PARTITION BY image_id, layer, best_gt_iou) - 1 AS y
    FROM queries WHERE score IS NOT NULL
) GROUP BY ALL
"""


@dataclass(frozen=True, slots=True)
class LayerMetric:
    """A metric with one value per layer: a mean, or a sum, over the rows of a table.

    Attributes:
        name: key in summary.json and column of `Run.layer_metrics`.
        label: text in reports and dashboard.
        meaning: one line that explains the label.
        value: SQL expression over a row of `rows`; rows where it is null do not count.
        unit: fraction (0..1, shown in percent), correlation (-1..1), count, or cost (of a match).
        higher_is_better: direction of improvement; None if there is none.
        first_layer: first layer that has a value, 0 or 1.
        rows: SQL of a table with the columns `image_id`, `layer` and those of `value`.
        weight: SQL expression over a row; the metric is Σ value / Σ weight. None gives the mean.
        statistic: "sum" does not divide.
        exact: whether integers are divided, which rounds once. Version 0.1 did so for the paper's
            metrics only, and no value may differ from those that it wrote.
    """

    name: str
    label: str
    meaning: str
    _: KW_ONLY
    value: str
    unit: Unit = "fraction"
    higher_is_better: bool | None = None
    first_layer: Literal[0, 1] = 0
    rows: str = _QUERIES
    weight: str | None = None
    statistic: Literal["mean", "sum"] = "mean"
    exact: bool = False

    @property
    def numerator(self) -> str:
        """SQL of the sum of the values, in fixed point."""
        return f"sum(fixed({self.value}))"

    @property
    def denominator(self) -> str:
        """SQL of the sum of the weights, in fixed point."""
        if self.weight is not None:
            return f"sum(fixed({self.weight}))"
        return f"count({self.value})::HUGEINT * {SCALE}"


_COST = "class_cost + mask_cost + dice_cost"

_METRICS = (
    LayerMetric(
        "miou_l", "mIoU-L", "IoU of a query's masks in adjacent layers, empty pairs left out",
        first_layer=1, rows=_PAIRS, value="iou_prev", exact=True,
    ),
    LayerMetric(
        "miou_l_empty0", "mIoU-L, empty pairs as 0", "pairs of two empty masks count as 0",
        first_layer=1, rows=_PAIRS, value="coalesce(iou_prev, 0)", exact=True,
    ),
    LayerMetric(
        "miou_l_empty1", "mIoU-L, empty pairs as 1", "pairs of two empty masks count as 1",
        first_layer=1, rows=_PAIRS, value="coalesce(iou_prev, 1)", exact=True,
    ),
    LayerMetric(
        "miou_l_matched", "mIoU-L, matched queries", "queries that match a GT in the last layer",
        first_layer=1, rows=_PAIRS, value="CASE WHEN matched THEN iou_prev END", exact=True,
    ),
    LayerMetric(
        "empty_pairs", "Empty pairs", "share of pairs in which both masks are empty",
        first_layer=1, rows=_PAIRS, value="(iou_prev IS NULL)::INT", exact=True,
    ),
    LayerMetric(
        "util", "Util", "share of GT matched by the same query as in the last layer",
        rows=_UTIL, value="util", exact=True,
    ),
    LayerMetric(
        "empty_masks", "Empty masks", "share of masks without a cell", value="(area = 0)::INT",
    ),
    LayerMetric(
        "instability", "Changed matches per image", "matches that differ from the layer before",
        unit="count", higher_is_better=False, first_layer=1, rows=_CHANGES, value="changes",
    ),
    LayerMetric(
        "match_stability", "Match stability", "share of GT that keep the query of the layer before",
        higher_is_better=True, first_layer=1, rows=_KEPT, value="kept",
    ),
    LayerMetric(
        "matched_iou", "IoU of matched masks", "IoU of a matched mask with its GT",
        higher_is_better=True, value="matched_gt_iou",
    ),
    LayerMetric(
        "best_iou", "IoU of best masks", "highest IoU of any query with a GT",
        higher_is_better=True, rows=_TARGETS, value="best_iou",
    ),
    LayerMetric(
        "margin", "Match margin", "cost of the GT's next-best query minus cost of its match",
        unit="cost", higher_is_better=True, value="margin",
    ),
    LayerMetric(
        "class_share", "Class share of the cost", "class term / cost, over matches",
        value="class_cost", weight=_COST,
    ),
    LayerMetric(
        "mask_share", "Mask share of the cost", "mask term / cost, over matches",
        value="mask_cost", weight=_COST,
    ),
    LayerMetric(
        "dice_share", "Dice share of the cost", "dice term / cost, over matches",
        value="dice_cost", weight=_COST,
    ),
    LayerMetric(
        "duplicates", "Duplicates",
        "share of the most confident queries that repeat a GT of a more confident one",
        higher_is_better=False, rows=_MOST_CONFIDENT, value="duplicate::INT",
    ),
    LayerMetric(
        "score_iou_correlation", "Score-IoU rank correlation",
        "Spearman's coefficient of an image's scores and the IoUs with the best GT",
        unit="correlation", higher_is_better=True, rows=_RANK_CORRELATION, value="correlation",
    ),
    LayerMetric(
        "non_finite", "Non-finite predictions", "predictions with NaN or infinity",
        unit="count", higher_is_better=False, value="(area IS NULL)::INT", statistic="sum",
    ),
)  # fmt: skip

LAYER_METRICS: Mapping[str, LayerMetric] = MappingProxyType({m.name: m for m in _METRICS})
"""Name -> metric, in the order of display."""


IMAGE_METRICS_COLUMNS = {"image_id", "layer"} | {
    f"{name}{suffix}" for name in LAYER_METRICS for suffix in ("", "_weight")
}


def image_metrics_sql() -> str:
    """Return the SQL of the sums of each image and layer: NAME and NAME_weight for each metric."""
    tables: dict[str, list[str]] = {}
    for metric in LAYER_METRICS.values():
        tables.setdefault(metric.rows, []).append(
            f"{metric.numerator} AS {metric.name}, {metric.denominator} AS {metric.name}_weight"
        )
    sums = " UNION ALL BY NAME ".join(
        f"(SELECT image_id, layer, {', '.join(columns)} FROM ({rows}) GROUP BY ALL)"
        for rows, columns in tables.items()
    )
    columns = "sum(COLUMNS(* EXCLUDE (image_id, layer)))"
    return f"SELECT image_id, layer, {columns} FROM ({sums}) GROUP BY image_id, layer"


def layer_metrics(connection: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Return one row per layer 0..L with `layer` and a float column for each of `LAYER_METRICS`.

    A value is NaN where there is nothing to average. Sums run over integers (values times 2^52),
    so the order of the rows, the layout of the parts and the number of threads do not matter.
    """
    table = connection.execute("FROM layers ORDER BY layer").df().set_index("layer")
    sums = []
    for name, metric in LAYER_METRICS.items():
        total = f"sum({name}::HUGEINT)"
        weight = SCALE if metric.statistic == "sum" else f"nullif(sum({name}_weight::HUGEINT), 0)"
        sums.append(f"{total}, {weight}, {total} / {weight}")
    # One query, because a run without the stored sums computes them from all rows.
    rows = connection.execute(
        f"SELECT layer, {', '.join(sums)} FROM image_metrics GROUP BY layer"
    ).fetchall()
    for place, (name, metric) in enumerate(LAYER_METRICS.items()):
        values = {}
        for row in rows:
            total, weight, quotient = row[1 + 3 * place : 4 + 3 * place]
            is_exact = metric.exact and weight and total is not None
            values[row[0]] = total / weight if is_exact else quotient
        table[name] = pd.Series(values, dtype=float)
    return table.reset_index()


def image_terms(connection: duckdb.DuckDBPyConnection) -> dict[str, Terms]:
    """Return numerator and denominator of each metric for each image, (I, L + 1) each.

    Images are in ascending order of their ids. Each metric is the ratio of the sums over images.
    """
    ids = image_ids(connection)
    layers = connection.execute("SELECT count(*) FROM layers").fetchall()[0][0]
    sums = connection.execute("FROM image_metrics").df()
    place = np.searchsorted(ids, sums["image_id"]), sums["layer"].to_numpy()

    def matrix(column: str) -> Floats:
        values = np.zeros((len(ids), layers))
        values[place] = sums[column].fillna(0).to_numpy(dtype=float) / SCALE
        return values

    return {
        name: (
            matrix(name),
            np.full((len(ids), layers), 1 / max(len(ids), 1))
            if metric.statistic == "sum"
            else matrix(f"{name}_weight"),
        )
        for name, metric in LAYER_METRICS.items()
    }
