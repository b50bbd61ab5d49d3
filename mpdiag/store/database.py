"""DuckDB over the Parquet files of one run directory, and over nothing else."""

import re
from pathlib import Path

import duckdb

from mpdiag.store.schema import ADDED, TABLES

SCALE = 2**52
MACROS = (
    f"CREATE MACRO fixed(x) AS CAST(round(x * {SCALE}) AS HUGEINT)",
    f"CREATE MACRO exact_mean(x) AS sum(fixed(x)) / count(x) / {SCALE}",
)
"""`fixed` makes sums exact, whatever their order, and `exact_mean` divides such a sum once."""

IN_PARTS = ("queries", "targets", "images", "detections")
"""Tables that have a file of the same name for each part; `narrow` reads one of them."""


def connect(directory: Path) -> duckdb.DuckDBPyConnection:
    """Open an in-memory database with a view for each table of mpdiag.store.schema.

    A table without files is empty, and a column that an older schema version lacks is null. Every
    column has the type of the schema: a query fails where the values of a file have none. One more,
    `parts`, tells the file in which an image stands. The connection can read files below
    `directory` only, and no statement can widen that.
    """
    connection = duckdb.connect(":memory:")
    root = str(directory.resolve())
    for name, schema in TABLES.items():
        connection.register("_empty", schema.empty_table())
        if any((directory / name).glob("*.parquet")):
            source = f"read_parquet({_files(root, name)}, hive_partitioning = false)"
            there = set(_columns(connection, source))
            columns = ", ".join(
                f'CAST(NULL AS {kind}) AS "{column}"'
                if column in ADDED[name] - there
                else f'CAST("{column}" AS {kind}) AS "{column}"'
                for column, kind in _columns(connection, "_empty").items()
            )
            connection.execute(f"CREATE VIEW {name} AS SELECT {columns} FROM {source}")
        else:
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM _empty")
        connection.unregister("_empty")
    files = f"{_files(root, 'images')}, hive_partitioning = false, filename = true"
    if any((directory / "images").glob("*.parquet")):
        connection.execute(
            f"CREATE VIEW parts AS SELECT image_id, filename FROM read_parquet({files})"
        )
    else:
        connection.execute("CREATE TABLE parts (image_id BIGINT, filename VARCHAR)")
    for macro in MACROS:
        connection.execute(macro)
    # DuckDB compares the escaped pattern as well as the file that it found with this list.
    allowed = f"[{quote(root)}, {quote(escape_glob(root))}]"
    connection.execute(f"SET allowed_directories = {allowed}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def narrow(cursor: duckdb.DuckDBPyConnection, part: str) -> None:
    """Let the tables IN_PARTS hold, in this cursor, the rows of the part of that name alone.

    What is asked of one image then opens one file in place of all.
    """
    cursor.execute(f"SET VARIABLE part = {quote(escape_glob(part))}")


def quote(text: str | Path) -> str:
    """`text` as a literal of SQL."""
    return "'" + str(text).replace("'", "''") + "'"


def _files(root: str, name: str) -> str:
    """SQL of the pattern that a table's files have."""
    part = "coalesce(getvariable('part'), '*')" if name in IN_PARTS else "'*'"
    return f"{quote(f'{escape_glob(root)}/{name}/')} || {part} || '.parquet'"


def _columns(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, str]:
    """Name -> DuckDB type of each column of a table."""
    described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    return {row[0]: row[1] for row in described}


def escape_glob(path: str) -> str:
    """A pattern that only `path` itself fits."""
    return re.sub(r"([*?\[])", r"[\1]", path)
