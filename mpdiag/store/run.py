"""Read a finished run directory."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd

from mpdiag import rle
from mpdiag.errors import ConfigError, RunError
from mpdiag.legacy_names import upgrade_config
from mpdiag.printable import printable
from mpdiag.store.aggregates import add_views
from mpdiag.store.attention import StoredAttention, bounded_columns_sql, unpack
from mpdiag.store.bootstrap import RESAMPLES, Terms
from mpdiag.store.database import connect, query_errors, restrict_to_part
from mpdiag.store.groups import (
    GROUPS,
    NEEDED_COLUMNS,
    Assignment,
    GroupBy,
    GroupSums,
    image_sums,
)
from mpdiag.store.layer_metrics import image_terms, layer_metrics
from mpdiag.store.layers import group_layers, with_intervals
from mpdiag.store.schema import COLUMNS, SCHEMA_VERSION
from mpdiag.store.transitions import DEFAULT, Thresholds, transition_counts_sql, transitions
from mpdiag.store.validation import check_rows, is_summary, with_sections
from mpdiag.untrusted import read_json

MAX_MASKS = 10_000
"""Maximum number of masks of an image, as in a data set."""

MAX_NAME = 255
"""Maximum number of characters of a run's name, as of a file name."""


class Run:
    """A finished run: its header, its summary, and its rows through SQL. Open one with `open`."""

    def __init__(
        self,
        path: Path,
        header: dict[str, Any],
        summary: dict[str, Any],
        thresholds: Thresholds = DEFAULT,
    ) -> None:
        self.path = path
        self.thresholds = thresholds
        self.header = header
        self.summary = summary
        classes = header.get("classes")
        self._connection = _connect(path, summary, len(classes) if isinstance(classes, list) else 0)

    @classmethod
    def open(cls, path: Path, thresholds: Thresholds = DEFAULT) -> "Run":
        """Open the run directory at `path`; `thresholds` classify its transitions.

        Raises:
            RunError: `path` is not a run directory or not readable, or the run is unfinished,
                incomplete or of a newer schema version.
        """
        try:
            return cls._open(Path(path), thresholds)
        except OSError as error:  # no permission, or a network drive that is gone
            raise RunError(f"{path} is not readable ({error.strerror}); check it") from error

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Return whether a directory holds a run."""
        return (Path(path) / "run.json").is_file()

    @classmethod
    def _open(cls, path: Path, thresholds: Thresholds) -> "Run":
        if not path.exists():
            raise RunError(f"{path} does not exist; give the directory of a run")
        if not cls.exists(path):
            raise RunError(f"{path} has no run.json; give the directory of a run")
        header = _read_json(path / "run.json")
        version = header.get("schema_version")
        if not isinstance(version, int):
            raise RunError(f"{path / 'run.json'} has no schema_version; give a run of mpdiag")
        if version > SCHEMA_VERSION:
            raise RunError(
                f"{path} has schema_version {version}, but this mpdiag reads versions up to "
                f"{SCHEMA_VERSION}; update mpdiag"
            )
        if not header.get("finished"):
            raise RunError(f"{path} is unfinished; continue it with mpdiag analyze ... --resume")
        if not (path / "summary.json").is_file():
            raise RunError(f"{path} has no summary.json; analyse again")
        summary = _read_json(path / "summary.json")
        if not is_summary(summary):
            raise RunError(f"{path / 'summary.json'} lacks values; analyse again")
        header = with_sections(header)
        model = upgrade_config({"model": header["architecture"]})["model"]
        return cls(path, {**header, "architecture": model}, summary, thresholds)

    @property
    def name(self) -> str:
        """The name in run.json, or else the name of the directory."""
        return printable(self.header.get("name") or self.path.resolve().name, MAX_NAME)

    @property
    def num_layers(self) -> int:
        """L, the number of decoder layers."""
        return int(self.summary["num_layers"])

    def has_column(self, table: str, column: str) -> bool:
        """Return whether the schema version of the run has a column (else it is null).

        Raises:
            KeyError: mpdiag.store.schema has no such column.
        """
        since = {known.name: known.since for known in COLUMNS[table]}[column]
        return bool(self.header["schema_version"] >= since)

    def query(
        self, sql: str, params: Sequence[Any] = (), *, image_id: int | None = None
    ) -> pd.DataFrame:
        """Run SQL over the views of docs/run-directory.md; `params` replace its `?`.

        With `image_id`, `queries`, `targets`, `images` and `detections` contain only the part with
        that image, which is faster. The SQL must still select the image.

        Raises:
            RunError: the query failed.
        """
        with self._cursor() as cursor:
            part = None if image_id is None else self._parts.get(image_id)
            if part is not None:
                restrict_to_part(cursor, part)
            rows: pd.DataFrame = cursor.execute(sql, list(params)).df()
            return rows

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a new cursor, since threads must not share one; its errors become RunError."""
        with query_errors(self.path, "is damaged, or the query failed"):
            yield self._connection.cursor()

    @cached_property
    def _parts(self) -> dict[int, str]:
        """Image id -> name of the part that has its rows."""
        with self._cursor() as cursor:
            found = cursor.execute("FROM parts").fetchall()
        return {image_id: Path(file).stem for image_id, file in found}

    def layer_metrics(self, *, intervals: bool = False, resamples: int = RESAMPLES) -> pd.DataFrame:
        """Return one row per layer 0..L with `layer` and each of `LAYER_METRICS`.

        Values are NaN where there is nothing to average. With `intervals`, each metric also has
        the columns NAME_low and NAME_high, the ends of a 95% interval by resampling images, and
        NAME_spread, the standard deviation of the images' own values.
        """
        with self._cursor() as cursor:
            table = layer_metrics(cursor)
        if intervals:
            columns = with_intervals(self.image_terms(), resamples)
            new = {name: values for name, values in columns.items() if name not in table}
            table = pd.concat([table, pd.DataFrame(new)], axis=1)
        return table

    def image_terms(self) -> dict[str, Terms]:
        """Return numerator and denominator of each layer metric, image by image.

        Each is (I, L + 1), with the images in ascending order of their ids. The metric is the ratio
        of the sums over images.
        """
        with self._cursor() as cursor:
            terms = image_terms(cursor)
        # Those of `layers` are not rounded to fixed point: both must give the same values.
        for sums in self.image_sums().values():
            terms |= sums.terms
        return terms

    def layers(
        self,
        by: GroupBy = "all",
        assignment: Assignment = "bipartite",
        *,
        resamples: int = RESAMPLES,
    ) -> pd.DataFrame:
        """Return mIoU-L and Util of each group and layer 0..L, as fractions.

        Columns: `group`, `layer`; `miou_l` over `pairs` pairs that are not both empty (NaN in layer
        0); `util`, averaged over the `images` that have GT of the group. Both also as `_low` and
        `_high`, the ends of a 95% interval by resampling images, and `_spread`, the standard
        deviation of the images' own values. NaN where there is nothing to average. With hard
        assignment Util is 1 by construction.

        Args:
            by: see `image_sums`.
            assignment: see `image_sums`.
            resamples: of the bootstrap.

        Raises:
            ConfigError, RunError: see `image_sums`.
        """
        return group_layers(self.image_sums(by, assignment), resamples)

    def image_sums(self, by: GroupBy = "all", assignment: Assignment = "bipartite") -> GroupSums:
        """Return the sums of each group, image by image; see `mpdiag.store.groups.image_sums`.

        Raises:
            ConfigError: unknown group or assignment.
            RunError: the run lacks what the group or assignment needs.
        """
        if by not in get_args(GroupBy) or assignment not in get_args(Assignment):
            raise ConfigError(
                f"unknown group or assignment: {by}, {assignment}; choose from "
                f"{', '.join(get_args(GroupBy))}, and from {', '.join(get_args(Assignment))}"
            )
        if assignment == "hard" and self.header.get("part") != "piloted":
            raise RunError(
                f"{self.path} is of the matching part, whose queries are not made from GT; hard "
                "assignment needs --part piloted"
            )
        if by in NEEDED_COLUMNS:
            self._require("targets", NEEDED_COLUMNS[by])
        names = GROUPS.get(by) or self._class_names()
        with self._cursor() as cursor:
            return image_sums(cursor, by, assignment, names, self.num_layers)

    def transitions(self) -> pd.DataFrame:
        """Return the counts of transitions and what Util gains without them, by layer and class.

        See `mpdiag.store.transitions.transitions`.

        Raises:
            RunError: the schema version of the run is too old.
        """
        self._require("queries", "second_coverage")
        stored = self.thresholds == DEFAULT
        sql = "FROM image_transitions" if stored else transition_counts_sql(self.thresholds)
        with self._cursor() as cursor:
            return transitions(cursor, sql)

    def masks(self, image_id: int, query: int) -> npt.NDArray[np.bool_]:
        """Return masks M^0..M^L of a query, shape (L + 1, height, width), on the prediction grid.

        Raises:
            RunError: the run has not stored them.
        """
        masks = self._decode("query", image_id, query)
        if len(masks) != self.num_layers + 1:
            raise RunError(
                f"{self.path} has no masks of image {image_id}, query {query}; analyse with "
                "--save-masks all"
            )
        return masks

    def attention(self, image_id: int, query: int) -> list[StoredAttention]:
        """Return the cross-attention of a query in decoder layers 1..L.

        Raises:
            RunError: the run has not stored it.
        """
        layers = self.num_layers
        rows = self.query(
            f"SELECT {bounded_columns_sql(layers)} FROM attention "
            "WHERE image_id = ? AND query = ? ORDER BY layer LIMIT ?",
            [int(image_id), int(query), layers + 1],
        )
        if rows.empty:
            raise RunError(
                f"{self.path} has no attention of image {image_id}, query {query}; analyse with "
                "--save-attention"
            )
        try:
            return unpack(rows, self.num_layers)
        except ValueError as error:
            raise RunError(
                f"{self.path / 'attention'}: image {image_id}, query {query} is invalid ({error}); "
                "analyse again"
            ) from error

    def gt_masks(self, image_id: int) -> npt.NDArray[np.bool_]:
        """Return GT masks of an image, shape (GT, height, width); (0, 0, 0) if none is stored."""
        return self._decode("gt", image_id, None)

    def image(self, image_id: int) -> Path:
        """Return the path of the run's thumbnail, or else of the image file of the data set.

        The path is always inside the run directory or the data set's image_root.

        Raises:
            RunError: there is neither.
        """
        thumbnail = _inside(self.path / "thumbnails", f"{int(image_id)}.jpg")
        if thumbnail is not None:
            return thumbnail
        rows = self.query(
            "SELECT file_name FROM images WHERE image_id = ?", [int(image_id)], image_id=image_id
        )
        if rows.empty:
            raise RunError(f"{self.path} has no image {image_id}; choose another")
        name = str(rows["file_name"][0])
        file = self._image_file(name)
        if file is None:
            raise RunError(
                f"{self.path} has no thumbnail of image {image_id}, and {name} is not in "
                f"{self._image_root}; analyse again where the data set is"
            )
        return file

    def image_files(self) -> dict[int, Path]:
        """Return image id -> path of each image file of the data set, inside its image_root.

        Raises:
            RunError: a file does not exist.
        """
        rows = self.query("SELECT image_id, file_name FROM images ORDER BY image_id")
        files: dict[int, Path] = {}
        for image_id, name in rows.itertuples(index=False):
            file = self._image_file(str(name))
            if file is None:
                raise RunError(
                    f"{self.path}: image {image_id}, {name}, is not in {self._image_root}; put it "
                    "there"
                )
            files[int(image_id)] = file
        return files

    @property
    def _image_root(self) -> Any:
        return self.header["dataset"].get("image_root")

    def _image_file(self, name: str) -> Path | None:
        """Return the path of an image file if there is such a file."""
        root = self._image_root
        return _inside(Path(root), name) if isinstance(root, str) else None

    def _require(self, table: str, column: str) -> None:
        if not self.has_column(table, column):
            raise RunError(
                f"{self.path} has schema_version {self.header['schema_version']}, which has no "
                f"column {table}.{column}; analyse again"
            )

    def _class_names(self) -> tuple[str, ...]:
        """Return the names of the classes. Those with an equal name also get their category id."""
        try:
            classes = [(str(info["name"]), info) for info in self.header["classes"]]
            counts = Counter(name for name, _ in classes)
            return tuple(
                name if counts[name] == 1 else f"{name} ({info['category_id']})"
                for name, info in classes
            )
        except (KeyError, TypeError):
            raise RunError(f"{self.path / 'run.json'} has no classes; analyse again") from None

    def _decode(self, kind: str, image_id: int, index: int | None) -> npt.NDArray[np.bool_]:
        source = (
            "FROM masks JOIN images USING (image_id) "
            "WHERE kind = ? AND image_id = ? AND (index = ? OR ? IS NULL)"
        )
        params = [kind, int(image_id), index, index]
        size = self.query(f"SELECT sum(octet_length(counts)) AS size {source}", params)["size"][0]
        if size > rle.MAX_BYTES:
            raise RunError(
                f"{self.path / 'masks'}: the masks of image {image_id} are too large; analyse again"
            )
        rows = self.query(
            "SELECT masks.height, masks.width, counts, "
            "masks.height > input_height OR masks.width > input_width AS too_large "
            f"{source} ORDER BY layer, index LIMIT ?",
            [*params, MAX_MASKS],
        )
        if rows.empty:
            return np.zeros((0, 0, 0), dtype=np.bool_)
        try:
            if rows["too_large"].any() or (rows["height"] * rows["width"]).sum() > rle.MAX_CELLS:
                raise ValueError("larger than the image")
            return np.stack(
                [
                    rle.decode(bytes(counts), int(height), int(width))
                    for height, width, counts, _ in rows.itertuples(index=False)
                ]
            )
        except (TypeError, ValueError) as error:
            raise RunError(
                f"{self.path / 'masks'}: a mask of image {image_id} is invalid; analyse again"
            ) from error


def _connect(path: Path, summary: dict[str, Any], num_classes: int) -> duckdb.DuckDBPyConnection:
    with query_errors(path, "has an unreadable Parquet file"):
        connection = connect(path)
        try:
            check_rows(connection, summary, add_views(connection, path), num_classes)
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}); analyse again") from None
        return connection


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is not readable as JSON ({error}); analyse again") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is not a JSON object; analyse again")
    return content


def _inside(root: Path, name: str) -> Path | None:
    """Return the file `name` below `root`; None if it is missing or resolves to elsewhere."""
    try:
        file = (root / name).resolve()
        return file if file.is_relative_to(root.resolve()) and file.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, a null character
        return None
