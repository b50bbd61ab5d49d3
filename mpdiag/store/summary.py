"""The content of summary.json, as queries over the rows of a run."""

import math
from typing import Any

import duckdb

from mpdiag.errors import RunError
from mpdiag.store.layer_metrics import LAYER_METRICS, layer_metrics
from mpdiag.store.query_use import query_use
from mpdiag.store.schema import SCHEMA_VERSION

_TWICE = "SELECT image_id FROM images GROUP BY image_id HAVING count(*) > 1 ORDER BY image_id"

_COUNTS = """
SELECT (SELECT count(*) FROM images),
       (SELECT coalesce(sum(num_gt), 0)::BIGINT FROM images),
       (SELECT coalesce(max(layer), 0) FROM queries),
       (SELECT coalesce(max(query) + 1, 0) FROM queries),
       (SELECT count(*) FROM queries WHERE area IS NULL)
"""


def summarize(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Return the content of summary.json; docs/metrics.md gives the formulas.

    Values are fractions, and None where there is nothing to average.

    Args:
        connection: the rows and the views of mpdiag.store.aggregates.

    Raises:
        RunError: two parts contain the same image, which would count twice.
    """
    twice = connection.execute(_TWICE).fetchone()
    if twice:
        raise RunError(
            f"image {twice[0]} is in more than one part of the run; analyse into a new directory"
        )
    counts = connection.execute(_COUNTS).fetchone()
    assert counts is not None
    num_images, num_gt, num_layers, num_queries, non_finite = counts
    first, *others = _layers(connection) or [{}]
    return {
        "schema_version": SCHEMA_VERSION,
        "num_images": num_images,
        "num_gt": num_gt,
        "num_queries": num_queries,
        "num_layers": num_layers,
        "layers": others,
        "util_m0": first.get("util"),
        "m0": {name: first[name] for name in LAYER_METRICS if name in first},
        "oracle": oracle(connection),
        "query_use": query_use(connection),
        "non_finite": non_finite,
    }


def _layers(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Return the metrics of layers 0..L, with None where there is nothing to average."""
    return [
        {str(name): None if math.isnan(value) else value for name, value in row.items()}
        for row in layer_metrics(connection).to_dict("records")
    ]


def oracle(connection: duckdb.DuckDBPyConnection) -> dict[str, float | None]:
    """Return the mean over all GT of the IoU that the best layer of each GT gives.

    `matched_iou`: maximum over layers of the IoU with the query that matches the GT there; 0 if
    none matches. `best_iou`: maximum over layers and queries.
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
