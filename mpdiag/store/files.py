"""Files that are there in full or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content stands at `path` once it is closed; an error leaves the old file.

    So does a crash at any moment, and a temporary file beside it.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    except Exception as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)  # the user knows no other
        raise
    temporary.replace(path)
    _sync_directory(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all."""
    with replacing(path) as stream:
        stream.write(data)


def replace_json(path: Path, content: dict[str, Any]) -> None:
    """`replace_file` with indented JSON; NaN and infinities are refused with ValueError."""
    replace_file(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def replace_parquet(path: Path, table: pa.Table, group: int | None = None) -> None:
    """`replace_file` with a Parquet file, of which readers skip `group` rows at once."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=group)
    replace_file(path, sink.getvalue().to_pybytes())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
