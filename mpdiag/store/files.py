"""Write files atomically: after a crash, a path has the old content or the new, never a part."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from mpdiag.errors import OutputError, describe_os_error

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a stream whose content replaces `path` on exit; an error or crash keeps the old file.

    A crash may also leave a temporary file next to it.

    Raises:
        OutputError: the file cannot be written.
    """
    temporary = _temporary(path)
    with _report_write_errors(path):
        try:
            temporary.unlink(missing_ok=True)  # of a crash, or a link to another file
            with temporary.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_directory(path.parent)


@contextmanager
def _report_write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of writing `path` into an OutputError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save raises a RuntimeError after the OSError of its stream.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        if cause.filename not in (None, str(path), str(_temporary(path))):
            raise
        raise OutputError(
            f"{path}: cannot be written ({describe_os_error(cause, path)}); free disk space, or "
            "choose another path"
        ) from None


def check_target(path: Path) -> None:
    """Check that a file can be written to `path`, before a long computation whose result it gets.

    Raises:
        OutputError: its folder does not exist or is not writable, or `path` is a folder.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give the path of a file")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: its folder does not exist; create it, or choose another path")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: its folder is not writable; choose another path")


def append(path: Path, data: bytes) -> None:
    """Append `data` to a file; after an error the file has its old content.

    Raises:
        OutputError: the file cannot be written, or is a symbolic link.
    """
    with (
        _report_write_errors(path),
        open(path, "ab", buffering=0, opener=_open_without_links) as stream,
    ):
        size = stream.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[stream.write(data) :]
        except BaseException:
            stream.truncate(size)
            raise


def _open_without_links(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


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


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + TEMPORARY_SUFFIX)


def _sync_directory(directory: Path) -> None:
    if os.name == "nt":  # Windows cannot open a directory
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
