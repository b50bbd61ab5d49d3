"""The aggregates of a run, as queries over its rows.

Sums run over integers (values times 2^52, rounded), so that their order, and with it the layout
of the parts and the number of threads, can't change a single bit of the result.
"""

import math
from typing import Any

import duckdb

from mpdiag.errors import RunError
from mpdiag.store.consistency import COLUMNS, consistency, oracle
from mpdiag.store.database import SCALE
from mpdiag.store.query_use import query_use
from mpdiag.store.schema import SCHEMA_VERSION

SUMMARY_COUNTS = ("num_images", "num_gt", "num_queries", "num_layers")
LAYER_VALUES = (
    "miou_l",
    "miou_l_empty0",
    "miou_l_empty1",
    "miou_l_matched",
    "empty_pairs",
    "util",
)

_TWICE = "SELECT image_id FROM images GROUP BY image_id HAVING count(*) > 1 ORDER BY image_id"

_COUNTS = """
SELECT (SELECT count(*) FROM images),
       (SELECT coalesce(sum(num_gt), 0)::BIGINT FROM images),
       (SELECT coalesce(max(layer), 0) FROM queries),
       (SELECT coalesce(max(query) + 1, 0) FROM queries),
       (SELECT count(*) FROM queries WHERE area IS NULL)
"""

_LAYERS = f"""
WITH last AS (
    SELECT image_id, query FROM queries
    WHERE layer = (SELECT max(layer) FROM queries) AND matched_gt >= 0
),
pairs AS (
    SELECT layer,
           CAST(round(iou_prev * {SCALE}) AS BIGINT) AS iou,
           (image_id, query) IN (SELECT (image_id, query) FROM last) AS matched
    FROM queries WHERE layer >= 1 AND area IS NOT NULL AND area_prev IS NOT NULL
)
SELECT layer, count(*), count(iou), sum(iou),
       count(iou) FILTER (WHERE matched), sum(iou) FILTER (WHERE matched)
FROM pairs GROUP BY layer ORDER BY layer
"""

_UTIL = f"""
SELECT layer, count(*), sum(CAST(round(util * {SCALE}) AS BIGINT))
FROM (
    SELECT unnest(util) AS util, generate_subscripts(util, 1) - 1 AS layer
    FROM images WHERE num_gt > 0
)
GROUP BY layer
"""


def summarize(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Compute the content of summary.json; docs/metrics.md gives the formulas.

    Values are fractions, and None where there is nothing to average. Raises RunError where an
    image stands in two parts, since it would count twice.
    """
    twice = connection.execute(_TWICE).fetchone()
    if twice:
        raise RunError(
            f"image {twice[0]} stands in more than one part of the run: "
            "analyse into a new directory"
        )
    counts = connection.execute(_COUNTS).fetchone()
    assert counts is not None
    num_images, num_gt, num_layers, num_queries, non_finite = counts
    util = {
        layer: _mean(total, count) for layer, count, total in connection.execute(_UTIL).fetchall()
    }
    rows = connection.execute(_LAYERS).fetchall()
    further = _further(connection)
    return {
        "schema_version": SCHEMA_VERSION,
        "num_images": num_images,
        "num_gt": num_gt,
        "num_queries": num_queries,
        "num_layers": num_layers,
        "layers": [_layer(*row, util=util.get(row[0])) | further.get(row[0], {}) for row in rows],
        "util_m0": util.get(0),
        "m0": further.get(0, {}),
        "oracle": oracle(connection),
        "query_use": query_use(connection),
        "non_finite": non_finite,
    }


def _layer(
    layer: int,
    pairs: int,
    filled: int,
    total: int | None,
    matched: int,
    matched_total: int | None,
    *,
    util: float | None,
) -> dict[str, Any]:
    total = total or 0
    empty = pairs - filled
    return {
        "layer": layer,
        "miou_l": _mean(total, filled),
        "miou_l_empty0": _mean(total, pairs),
        "miou_l_empty1": _mean(total + empty * SCALE, pairs),
        "miou_l_matched": _mean(matched_total or 0, matched),
        "empty_pairs": empty / pairs,
        "util": util,
    }


def _further(connection: duckdb.DuckDBPyConnection) -> dict[int, dict[Any, Any]]:
    """By layer, what `consistency` says of it; None where there is nothing to average."""
    table = consistency(connection).astype(float)
    return {
        layer: {name: None if math.isnan(value) else value for name, value in row.items()}
        for layer, row in enumerate(table[list(COLUMNS)].to_dict("records"))
    }


def _mean(total: int, count: int) -> float | None:
    """Divide once; a quotient of two Python integers is correctly rounded."""
    return int(total) / (count * SCALE) if count else None
