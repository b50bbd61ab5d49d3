"""Write files atomically: after a crash, a path has the old content or the new, never a part."""

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
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a stream whose content replaces `path` on exit; an error or crash keeps the old file.

    A crash may also leave a temporary file next to it.
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
            error.filename = str(path)  # the path that the user knows
        raise
    temporary.replace(path)
    _sync_directory(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_write(path) as stream:
        stream.write(data)


def replace_json(path: Path, content: dict[str, Any]) -> None:
    """Write indented JSON atomically; ValueError for NaN and infinities."""
    replace_file(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def replace_parquet(path: Path, table: pa.Table, group: int | None = None) -> None:
    """Write a Parquet file atomically, in row groups of `group` rows if given."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=group)
    replace_file(path, sink.getvalue().to_pybytes())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
