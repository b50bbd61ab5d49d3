"""Sums over the rows of each image, which a finished run keeps: whoever asks of all reads these.

A view of the name of each gives the stored file, or where a run has none, as those of older
versions, the same sums from the rows.
"""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from mpdiag.store.database import MACROS, SCALE, escape_glob, quote
from mpdiag.store.transitions import counts

FOLDER = "aggregates"

_LAYERS = f"""
WITH of_queries AS (
    SELECT image_id, layer, coalesce(sum(fixed(iou_prev)), 0) / {SCALE} AS iou,
           count(iou_prev) AS pairs
    FROM queries GROUP BY ALL
),
owners AS (
    SELECT image_id, unnest(matched_query) AS query, matched_query[-1] AS final,
           generate_subscripts(matched_query, 1) - 1 AS layer
    FROM targets
),
of_targets AS (
    SELECT image_id, layer, count(*) FILTER (query = final AND final <> -1) AS kept
    FROM owners GROUP BY ALL
)
SELECT image_id, layer, iou, pairs, coalesce(kept, 0) AS kept, num_gt AS gt
FROM of_queries JOIN images USING (image_id) LEFT JOIN of_targets USING (image_id, layer)
"""

AGGREGATES = {"image_layers": _LAYERS, "image_transitions": counts()}
"""Name -> SQL over the rows; docs/run-directory.md describes the columns."""


def stored(directory: Path) -> Iterator[tuple[str, pa.Table]]:
    """Name and content of each aggregate of the run in `directory`.

    Part by part, since all rows of an image stand in one: a run may be larger than memory.
    """
    tables: dict[str, list[pa.Table]] = {name: [] for name in AGGREGATES}
    for part in sorted((directory / "images").glob("*.parquet")):
        with duckdb.connect(":memory:") as connection:
            for macro in MACROS:
                connection.execute(macro)
            for folder in ("images", "targets", "queries"):
                connection.register(folder, pq.read_table(directory / folder / part.name))
            for name, sql in AGGREGATES.items():
                found = connection.sql(f"SELECT * FROM ({sql}) ORDER BY ALL")
                tables[name].append(found.to_arrow_table())
    for name, parts in tables.items():
        if parts:
            yield name, pa.concat_tables(parts)


def add_views(connection: duckdb.DuckDBPyConnection, directory: Path) -> None:
    """Add the views to what `mpdiag.store.database.connect` opened on `directory`."""
    for name, sql in AGGREGATES.items():
        file = directory / FOLDER / f"{name}.parquet"
        source = (
            f"FROM read_parquet({quote(escape_glob(str(file.resolve())))})"
            if file.is_file()
            else sql
        )
        connection.execute(f"CREATE VIEW {name} AS {source}")
