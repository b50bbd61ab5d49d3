"""Write a run directory part by part; a crash at any moment leaves it resumable."""

import json
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mpdiag.errors import RunError
from mpdiag.store.aggregates import FOLDER, add_views, compute_aggregates
from mpdiag.store.database import connect, query_errors
from mpdiag.store.files import TEMPORARY_SUFFIX, replace_file, replace_json, replace_parquet
from mpdiag.store.lock import LOCK
from mpdiag.store.schema import SCHEMA_VERSION, TABLES
from mpdiag.store.summary import summarize
from mpdiag.untrusted import read_json

HEADER = "run.json"
SUMMARY = "summary.json"
FOLDERS = ("queries", "targets", "detections", "images", "masks", "attention", "thumbnails", FOLDER)

SelectedTable = Literal["masks", "attention"]
"""Tables of selected queries, in any number of files."""

ROW_GROUP_SIZES = {"attention": 64}
"""Rows per row group of tables with large rows, so that reading one image skips the others."""

_SAME_RUN = (
    ("schema_version",),
    ("checkpoint", "sha256"),
    ("dataset", "name"),
    ("dataset", "annotation_file"),
    ("dataset", "split"),
    ("dataset", "image_root"),
    ("task",),
    ("part",),
    ("settings",),
    ("architecture",),
    ("classes",),
)


class RunWriter:
    """Writer of one run directory.

    The main process calls `create`. Other processes of a distributed analysis call the constructor
    on the created directory and write parts with different names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[int, str] = {}
        """Id -> file name of the images whose rows are complete."""
        for part in (path / "images").glob("*.parquet"):
            try:
                images = pq.read_table(part, columns=["image_id", "file_name"])
            except (OSError, pa.ArrowException, KeyError) as error:
                raise RunError(f"{part}: cannot be read ({error}); analyse again") from None
            self._add(images)

    @classmethod
    def create(cls, path: Path, header: dict[str, Any], *, resume: bool = False) -> "RunWriter":
        """Start a run at `path`, or with `resume` continue the unfinished run that is there.

        `header` is the content of run.json (docs/run-directory.md) without `schema_version` and
        `finished`.

        Raises:
            RunError: `path` contains other files, another run, a finished run, or an unfinished
                run without `resume`. Nothing is changed.
        """
        path = Path(path)
        header = {**header, "schema_version": SCHEMA_VERSION, "finished": False}
        header = json.loads(json.dumps(header, allow_nan=False))
        if _check_free(path, header, resume):
            path.mkdir(parents=True, exist_ok=True)
            replace_json(path / HEADER, header)
        for folder in FOLDERS:
            if (path / folder).is_symlink():
                raise RunError(f"{path / folder}: is a link; give another directory for the run")
            (path / folder).mkdir(exist_ok=True)
        _drop_uncommitted(path)
        return cls(path)

    def _add(self, images: pa.Table) -> None:
        names = images["file_name"].to_pylist()
        self.done |= dict(zip(images["image_id"].to_pylist(), names, strict=True))

    def part_name(self, number: int) -> str:
        """Return the name of a part for `write`. If an image was left out, it has a suffix."""
        name, tries = f"part-{number:05d}", 0
        while (self.path / "images" / f"{name}.parquet").exists():
            tries += 1
            name = f"part-{number:05d}-{tries}"
        return name

    def write(
        self,
        part_name: str,
        images: pa.Table,
        targets: pa.Table,
        queries: pa.Table,
        detections: pa.Table | None = None,
    ) -> None:
        """Add a part: all rows of some images, in the columns of mpdiag.store.schema.

        The file of `images` is written last and marks the part as complete.

        Raises:
            ValueError: the part or an image is already there, or the columns are wrong.
        """
        ids = images["image_id"].to_pylist()
        known = self.done.keys() & ids
        if known or len(set(ids)) != len(ids):
            raise ValueError(f"part {part_name}: image {min(known or ids)} is written twice")
        if (self.path / "images" / f"{part_name}.parquet").exists():
            raise ValueError(f"part {part_name} is already written")
        tables = {"queries": queries, "targets": targets, "images": images}
        if detections is not None:
            tables = {"detections": detections} | tables
        for folder, table in tables.items():
            file = self.path / folder / f"{part_name}.parquet"
            replace_parquet(file, _conform(table, TABLES[folder]))
        self._add(images)

    def write_selected(self, folder: SelectedTable, name: str, table: pa.Table) -> None:
        """Write masks or attention of selected queries to the file `name`, replacing it."""
        path, group = self.path / folder / f"{name}.parquet", ROW_GROUP_SIZES.get(folder)
        replace_parquet(path, _conform(table, TABLES[folder]), group)

    def save_thumbnail(self, image_id: int, jpeg: bytes) -> None:
        """Store a thumbnail, so that the run can be viewed without the data set."""
        replace_file(self.path / "thumbnails" / f"{image_id}.jpg", jpeg)

    def delete_thumbnail(self, image_id: int) -> None:
        """Delete the thumbnail of an image, if there is one."""
        (self.path / "thumbnails" / f"{image_id}.jpg").unlink(missing_ok=True)

    def finish(
        self, timings: dict[str, Any] | None = None, extra: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Write aggregates and summary.json, mark run.json as finished, and return the summary.

        `timings` (seconds by name) go to run.json; `extra` are additional entries of the summary.
        """
        with query_errors(self.path, "is damaged"), connect(self.path) as connection:
            for name, table in compute_aggregates(connection):
                replace_parquet(self.path / FOLDER / f"{name}.parquet", table)
            add_views(connection, self.path)
            summary = summarize(connection)
        summary = {**(extra or {}), **summary}
        replace_json(self.path / SUMMARY, summary)
        header = json.loads((self.path / HEADER).read_text())
        replace_json(self.path / HEADER, {**header, "timings": timings or {}, "finished": True})
        return summary


def _check_free(path: Path, header: dict[str, Any], resume: bool) -> bool:
    """Return whether `path` is free for a new run; False if it has this run, to be resumed."""
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; give a directory for the run")
    names = {entry.name for entry in path.iterdir()} if path.exists() else set()
    names -= {HEADER + TEMPORARY_SUFFIX, LOCK}
    if not names:
        return True
    if HEADER not in names:
        raise RunError(f"{path} contains other files ({min(names)}); give an empty directory")
    found = _read_header(path)
    for keys in _SAME_RUN:
        if _lookup(found, keys) != _lookup(header, keys):
            raise RunError(
                f"{path} contains another run ({'.'.join(keys)} differs); give another directory"
            )
    if found.get("finished"):
        raise RunError(f"{path} is already finished; give another directory to run it again")
    temporary = SUMMARY + TEMPORARY_SUFFIX
    foreign = names - {HEADER, SUMMARY, temporary, *FOLDERS}
    if foreign:
        raise RunError(
            f"{path} contains files that do not belong to the run ({min(foreign)}); move them"
        )
    if not resume:
        raise RunError(f"{path} contains this run, unfinished; continue it with --resume")
    return False


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = read_json(path / HEADER)
    except (OSError, ValueError):
        header = None
    if not isinstance(header, dict):
        raise RunError(f"{path / HEADER}: not readable as JSON; give another directory")
    return header


def _lookup(header: dict[str, Any], keys: tuple[str, ...]) -> Any:
    value: Any = header
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _drop_uncommitted(path: Path) -> None:
    for folder in FOLDERS:
        for leftover in (path / folder).glob(f"*{TEMPORARY_SUFFIX}"):
            leftover.unlink()
    for folder in ("queries", "targets", "detections"):
        for part in (path / folder).glob("*.parquet"):
            if not (path / "images" / part.name).exists():
                part.unlink()


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    if set(table.column_names) != set(schema.names):
        difference = sorted(set(table.column_names) ^ set(schema.names))
        raise ValueError(f"columns {difference} are missing or unknown")
    return table.select(schema.names).cast(schema)
