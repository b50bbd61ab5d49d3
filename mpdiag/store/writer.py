"""Writing a run directory: part by part, resumable after a crash at any moment."""

import json
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mpdiag.errors import RunError
from mpdiag.store.aggregates import FOLDER, stored
from mpdiag.store.database import connect
from mpdiag.store.files import TEMPORARY_SUFFIX, replace_file, replace_json, replace_parquet
from mpdiag.store.schema import (
    DETECTIONS,
    IMAGES,
    QUERIES,
    SCHEMA_VERSION,
    TABLES,
    TARGETS,
)
from mpdiag.store.summary import summarize

HEADER = "run.json"
SUMMARY = "summary.json"
FOLDERS = ("queries", "targets", "detections", "images", "masks", "attention", "thumbnails", FOLDER)

Kept = Literal["masks", "attention"]
"""Tables of chosen queries, of which any number of files holds any rows."""

ROWS_AT_ONCE = {"attention": 64}
"""Where rows are large: whoever asks for one image need not read through all others' bytes."""

_SAME_RUN = (
    ("schema_version",),
    ("checkpoint", "sha256"),
    ("dataset", "name"),
    ("dataset", "annotation_file"),
    ("dataset", "split"),
    ("task",),
    ("part",),
    ("settings",),
)


class RunWriter:
    """Writes one run directory; make one with `create`.

    The constructor alone attaches to a directory that `create` has prepared: the way in for the
    other processes of a distributed analysis, which write parts under names of their own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: set[int] = set()
        """Ids of the images whose rows are complete."""
        for part in (path / "images").glob("*.parquet"):
            ids = pq.read_table(part, columns=["image_id"])["image_id"]
            self.done.update(ids.to_pylist())

    @classmethod
    def create(cls, path: Path, header: dict[str, Any], *, resume: bool = False) -> "RunWriter":
        """Start a run at `path`, or with `resume` go on with the unfinished one that is there.

        `header` is what run.json holds (docs/run-directory.md); `schema_version` and `finished`
        are filled in. Raises RunError, and leaves `path` as it was, where it holds other files,
        another run, a finished run, or an unfinished one without `resume`.
        """
        path = Path(path)
        header = {**header, "schema_version": SCHEMA_VERSION, "finished": False}
        header = json.loads(json.dumps(header, allow_nan=False))
        if _check_free(path, header, resume):
            path.mkdir(parents=True, exist_ok=True)
            replace_json(path / HEADER, header)
        for folder in FOLDERS:
            (path / folder).mkdir(exist_ok=True)
        _drop_uncommitted(path)
        return cls(path)

    def write(
        self,
        part_name: str,
        images: pa.Table,
        targets: pa.Table,
        queries: pa.Table,
        detections: pa.Table | None = None,
    ) -> None:
        """Add a part: all rows of some images, in the columns of mpdiag.store.schema.

        The images file comes last: it is the commit mark, without which the part does not count.
        Raises ValueError for a name or an image that is already there, or for other columns.
        """
        ids = images["image_id"].to_pylist()
        known = self.done.intersection(ids)
        if known or len(set(ids)) != len(ids):
            raise ValueError(f"part {part_name}: image {min(known or ids)} is written twice")
        if (self.path / "images" / f"{part_name}.parquet").exists():
            raise ValueError(f"part {part_name} is already written")
        parts = [
            ("queries", _conform(queries, QUERIES)),
            ("targets", _conform(targets, TARGETS)),
            ("images", _conform(images, IMAGES)),
        ]
        if detections is not None:
            parts.insert(0, ("detections", _conform(detections, DETECTIONS)))
        for folder, table in parts:
            replace_parquet(self.path / folder / f"{part_name}.parquet", table)
        self.done.update(ids)

    def write_kept(self, folder: Kept, name: str, table: pa.Table) -> None:
        """Keep masks or attention of some queries under `name`, in place of what stood there."""
        path, group = self.path / folder / f"{name}.parquet", ROWS_AT_ONCE.get(folder)
        replace_parquet(path, _conform(table, TABLES[folder]), group)

    def save_thumbnail(self, image_id: int, jpeg: bytes) -> None:
        """Keep a small picture of an image, so that the run can be looked at by itself."""
        replace_file(self.path / "thumbnails" / f"{image_id}.jpg", jpeg)

    def drop_thumbnail(self, image_id: int) -> None:
        """Remove the picture of an image that is no longer of interest, if there is one."""
        (self.path / "thumbnails" / f"{image_id}.jpg").unlink(missing_ok=True)

    def finish(
        self, timings: dict[str, Any] | None = None, extra: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Write aggregates and summary.json, mark run.json finished and give back the summary.

        `timings` (seconds by name) go to run.json; `extra` are further entries of the summary.
        """
        with connect(self.path) as connection:
            summary = summarize(connection)
        for name, table in stored(self.path):
            replace_parquet(self.path / FOLDER / f"{name}.parquet", table)
        summary = {**(extra or {}), **summary}
        replace_json(self.path / SUMMARY, summary)
        header = json.loads((self.path / HEADER).read_text())
        replace_json(self.path / HEADER, {**header, "timings": timings or {}, "finished": True})
        return summary


def _check_free(path: Path, header: dict[str, Any], resume: bool) -> bool:
    """Whether `path` is free for a new run; False where it holds this one, to be resumed."""
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file: give a directory for the run")
    names = {entry.name for entry in path.iterdir()} if path.exists() else set()
    names.discard(HEADER + TEMPORARY_SUFFIX)
    if not names:
        return True
    if HEADER not in names:
        raise RunError(f"{path} holds other files ({min(names)}): give an empty directory")
    found = _read_header(path)
    for keys in _SAME_RUN:
        if _lookup(found, keys) != _lookup(header, keys):
            raise RunError(
                f"{path} holds another run ({'.'.join(keys)} differs): give another directory"
            )
    if found.get("finished"):
        raise RunError(f"{path} is already finished: give another directory to run it again")
    temporary = SUMMARY + TEMPORARY_SUFFIX
    foreign = names - {HEADER, SUMMARY, temporary, *FOLDERS}
    if foreign:
        raise RunError(
            f"{path} holds files that are not of the run ({min(foreign)}): move them away"
        )
    if not resume:
        raise RunError(f"{path} holds this run unfinished: go on with it with --resume")
    return False


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads((path / HEADER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        header = None
    if not isinstance(header, dict):
        raise RunError(f"{path / HEADER} can't be read as JSON: give another directory")
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
