"""A DuckDB connection that reads the Parquet files of one run directory and no other files."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt

from mpdiag.errors import RunError
from mpdiag.legacy_names import RUN_COLUMNS
from mpdiag.store.schema import COLUMNS, TABLES, Column

SCALE = 2**52
MACROS = (
    f"CREATE MACRO fixed(x) AS CAST(round(x::DOUBLE * {SCALE}) AS HUGEINT)",
    f"CREATE MACRO exact_mean(x) AS sum(fixed(x)) / count(x) / {SCALE}",
)
"""`fixed` gives integers, whose sums are exact in any order; `exact_mean` divides such a sum."""

LAYERS_VIEW = "CREATE VIEW layers AS SELECT DISTINCT layer FROM queries"

PARTITIONED_TABLES = ("queries", "targets", "images", "detections")
"""Tables with one file per part."""


def connect(directory: Path) -> duckdb.DuckDBPyConnection:
    """Open an in-memory database with a view for each table of mpdiag.store.schema.

    A table without files is empty. A column that was added after the run was written is null, and
    old column names are translated. Each column has the type of the schema; a query fails if a
    stored value can't be converted. Two more views: `parts` gives the file of each image, `layers`
    the layers 0..L. The connection can read files below `directory` only, and no statement can
    change that.

    Raises:
        RunError: something other than a file has the name of a Parquet file.
    """
    connection = duckdb.connect(":memory:")
    root = str(directory.resolve())
    for table, types in _schema_types().items():
        if _has_files(directory / table):
            source = f"read_parquet({_files(root, table)}, hive_partitioning = false)"
            try:
                _create_view(connection, table, source, set(types))
            except duckdb.BinderException:  # of an older version
                _create_view(connection, table, source, set(column_types(connection, source)))
        else:
            columns = ", ".join(f'"{name}" {kind}' for name, kind in types.items())
            connection.execute(f"CREATE TABLE {table} ({columns})")
    files = f"{_files(root, 'images')}, hive_partitioning = false, filename = true"
    if _has_files(directory / "images"):
        connection.execute(
            f"CREATE VIEW parts AS SELECT image_id, filename FROM read_parquet({files})"
        )
    else:
        connection.execute("CREATE TABLE parts (image_id BIGINT, filename VARCHAR)")
    for macro in MACROS:
        connection.execute(macro)
    connection.execute(LAYERS_VIEW)
    # DuckDB checks both the escaped pattern and the file that it found against this list.
    allowed = f"[{quote(root)}, {quote(escape_glob(root))}]"
    connection.execute(f"SET allowed_directories = {allowed}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _create_view(
    connection: duckdb.DuckDBPyConnection, table: str, source: str, stored: set[str]
) -> None:
    """Create the view of a table whose files have the columns `stored`."""
    types = _schema_types()[table]
    selected = ", ".join(
        f'CAST({_stored_column(table, column, stored)} AS {types[column.name]}) AS "{column.name}"'
        for column in COLUMNS[table]
    )
    connection.execute(f"CREATE VIEW {table} AS SELECT {selected} FROM {source}")


@contextmanager
def query_errors(directory: Path, problem: str) -> Iterator[None]:
    """Turn an error of DuckDB into a RunError: "`directory` `problem` (reason); analyse again"."""
    try:
        yield
    except duckdb.Error as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise RunError(f"{directory} {problem} ({reason}); analyse again") from error


def restrict_to_part(cursor: duckdb.DuckDBPyConnection, part: str) -> None:
    """Restrict `PARTITIONED_TABLES` to one part in this cursor, so that queries open one file."""
    cursor.execute(f"SET VARIABLE part = {quote(escape_glob(part))}")


def image_ids(connection: duckdb.DuckDBPyConnection) -> npt.NDArray[np.int64]:
    """Return the ids of all images in ascending order, which is that of all per-image arrays."""
    query = "SELECT image_id FROM images ORDER BY image_id"
    return connection.execute(query).df()["image_id"].to_numpy()


def quote(text: str | Path) -> str:
    """Return `text` as a SQL literal."""
    return "'" + str(text).replace("'", "''") + "'"


def _files(root: str, name: str) -> str:
    """Return the SQL of the file pattern of a table."""
    part = "coalesce(getvariable('part'), '*')" if name in PARTITIONED_TABLES else "'*'"
    return f"{quote(f'{escape_glob(root)}/{name}/')} || {part} || '.parquet'"


def _has_files(folder: Path) -> bool:
    files = list(folder.glob("*.parquet"))
    for file in files:
        if not file.is_file():  # a named pipe would block the query
            raise RunError(f"{file} is not a regular file; analyse again")
    return bool(files)


@cache
def _schema_types() -> dict[str, dict[str, str]]:
    """Return name -> DuckDB type of each column of each table of the schema."""
    with duckdb.connect(":memory:") as connection:
        for table, schema in TABLES.items():
            connection.register(table, schema.empty_table())
        return {table: column_types(connection, table) for table in TABLES}


def column_types(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, str]:
    """Return name -> DuckDB type of each column of a table."""
    described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    return {row[0]: row[1] for row in described}


def _stored_column(table: str, column: Column, stored: set[str]) -> str:
    """Return the SQL that reads a column from files that have the columns `stored`."""
    old_name = RUN_COLUMNS.get(table, {}).get(column.name)
    if old_name in stored:
        return f'"{old_name}"'
    if column.since > 1 and column.name not in stored:
        return "NULL"
    return f'"{column.name}"'


def escape_glob(path: str) -> str:
    """Return a glob pattern that matches only `path` itself."""
    return re.sub(r"([*?\[])", r"[\1]", path)
