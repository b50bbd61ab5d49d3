"""Sums over the rows of each image, which a finished run stores so that queries need not scan all.

Each aggregate has a view of its name. The view reads the stored file, or computes the sums from the
rows if the file is missing or lacks a column, as in runs of older versions.
"""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from mpdiag.store.database import SCALE, column_types, escape_glob, quote
from mpdiag.store.layer_metrics import IMAGE_METRICS_COLUMNS, image_metrics_sql
from mpdiag.store.transitions import transition_counts_sql

FOLDER = "aggregates"

_LAYERS = f"""
WITH query_sums AS (
    SELECT image_id, layer, coalesce(sum(fixed(iou_prev)), 0) / {SCALE} AS iou,
           count(iou_prev) AS pairs
    FROM queries GROUP BY ALL
),
owners AS (
    SELECT image_id, unnest(matched_query) AS query, matched_query[-1] AS final,
           generate_subscripts(matched_query, 1) - 1 AS layer
    FROM targets
),
target_sums AS (
    SELECT image_id, layer, count(*) FILTER (query = final AND final <> -1) AS kept
    FROM owners GROUP BY ALL
)
SELECT image_id, layer, iou, pairs, coalesce(kept, 0) AS kept, num_gt AS gt
FROM query_sums JOIN images USING (image_id) LEFT JOIN target_sums USING (image_id, layer)
"""

AGGREGATES = {
    "image_layers": _LAYERS,
    "image_transitions": transition_counts_sql(),
    "image_metrics": image_metrics_sql(),
}
"""Name -> SQL over the rows; docs/run-directory.md describes the columns."""


def compute_aggregates(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, pa.Table]]:
    """Yield name and content of each aggregate of the run that `connect` opened."""
    for name, sql in AGGREGATES.items():
        yield name, connection.sql(f"SELECT * FROM ({sql}) ORDER BY ALL").to_arrow_table()


def add_views(connection: duckdb.DuckDBPyConnection, directory: Path) -> list[str]:
    """Add the views to a connection that `connect` opened on `directory`.

    Return the names of those that read a stored file.
    """
    stored = []
    for name, sql in AGGREGATES.items():
        file = directory / FOLDER / f"{name}.parquet"
        pattern = quote(escape_glob(str(file.resolve())))
        source = f"read_parquet({pattern}, hive_partitioning = false)"
        if file.is_file() and (
            name != "image_metrics"
            or column_types(connection, source).keys() >= IMAGE_METRICS_COLUMNS
        ):
            sql = f"FROM {source}"
            stored.append(name)
        connection.execute(f"CREATE VIEW {name} AS {sql}")
    return stored
