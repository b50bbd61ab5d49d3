"""DuckDB over the Parquet files of one run directory, and over nothing else."""

import re
from pathlib import Path

import duckdb

from mpdiag.store.schema import TABLES


def connect(directory: Path) -> duckdb.DuckDBPyConnection:
    """Open an in-memory database with a view for each of queries, targets, images and masks.

    A table without files is empty. The connection can read files below `directory` only, and no
    statement can widen that.
    """
    connection = duckdb.connect(":memory:")
    root = str(directory.resolve())
    for name, schema in TABLES.items():
        if any((directory / name).glob("*.parquet")):
            columns = ", ".join(f'"{column}"' for column in schema.names)
            files = _quote(f"{_escape_glob(root)}/{name}/*.parquet")
            connection.execute(
                f"CREATE VIEW {name} AS SELECT {columns} "
                f"FROM read_parquet({files}, hive_partitioning = false)"
            )
        else:
            connection.register("_empty", schema.empty_table())
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM _empty")
            connection.unregister("_empty")
    # DuckDB compares the escaped pattern as well as the file that it found with this list.
    allowed = f"[{_quote(root)}, {_quote(_escape_glob(root))}]"
    connection.execute(f"SET allowed_directories = {allowed}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _escape_glob(path: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", path)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
