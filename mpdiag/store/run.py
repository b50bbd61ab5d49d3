"""Reading a finished run directory."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd

from mpdiag.errors import RunError
from mpdiag.store import rle
from mpdiag.store.aggregates import add_views
from mpdiag.store.attention import Attention, unpack
from mpdiag.store.bootstrap import RESAMPLES
from mpdiag.store.consistency import consistency
from mpdiag.store.database import connect, narrow
from mpdiag.store.groups import Assignment, By
from mpdiag.store.layers import layers
from mpdiag.store.schema import SCHEMA_VERSION
from mpdiag.store.summary import LAYER_VALUES, SUMMARY_COUNTS
from mpdiag.store.transitions import DEFAULT, Thresholds, counts, transitions


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
        self._connection = _connect(path)

    @classmethod
    def open(cls, path: Path, thresholds: Thresholds = DEFAULT) -> "Run":
        """Open the run directory at `path`; RunError where it is none, unfinished or newer.

        `thresholds` are those by which it names its transitions.
        """
        path = Path(path)
        if not path.exists():
            raise RunError(f"{path} does not exist: give the directory of a run")
        if not (path / "run.json").is_file():
            raise RunError(f"{path} is not a run directory: it has no run.json")
        header = _read_json(path / "run.json")
        version = header.get("schema_version")
        if not isinstance(version, int):
            raise RunError(f"{path / 'run.json'} has no schema_version: it is not a run of mpdiag")
        if version > SCHEMA_VERSION:
            raise RunError(
                f"{path} has schema_version {version}, and this mpdiag reads up to "
                f"{SCHEMA_VERSION}: update mpdiag"
            )
        if not header.get("finished"):
            raise RunError(f"{path} is unfinished: go on with mpdiag analyze ... --resume")
        if not (path / "summary.json").is_file():
            raise RunError(f"{path} has no summary.json: analyse it again")
        summary = _read_json(path / "summary.json")
        if not _is_summary(summary):
            raise RunError(f"{path / 'summary.json'} lacks values: analyse it again")
        return cls(path, header, summary, thresholds)

    @property
    def name(self) -> str:
        """The name that the run was given, else that of its directory."""
        return str(self.header.get("name") or self.path.resolve().name)

    @property
    def num_layers(self) -> int:
        """L, the number of decoder layers."""
        return int(self.summary["num_layers"])

    def query(
        self, sql: str, params: Sequence[Any] = (), *, image_id: int | None = None
    ) -> pd.DataFrame:
        """Run SQL over the views of docs/run-directory.md; `params` fill its `?`s.

        With `image_id`, `queries`, `targets`, `images` and `detections` hold the rows of that image
        and of few others: the SQL must still choose, but need not look through the whole run.
        """
        try:
            # A cursor of its own for each call: a connection must not be shared by threads.
            cursor = self._connection.cursor()
            part = None if image_id is None else self._parts.get(image_id)
            if part is not None:
                narrow(cursor, part)
            return cursor.execute(sql, list(params)).df()
        except duckdb.Error as error:
            raise RunError(f"{self.path}: the query failed ({_first_line(error)})") from error

    @cached_property
    def _parts(self) -> dict[int, str]:
        """Image id -> name of the part that has its rows."""
        found = self._connection.cursor().execute("FROM parts").fetchall()
        return {image_id: Path(file).stem for image_id, file in found}

    def layers(
        self,
        by: By = "all",
        assignment: Assignment = "bipartite",
        *,
        seed: int = 0,
        resamples: int = RESAMPLES,
    ) -> pd.DataFrame:
        """mIoU-L and Util of each group and layer, with confidence intervals.

        See `mpdiag.store.layers.layers`.
        """
        return layers(self, by, assignment, seed=seed, resamples=resamples)

    def consistency(self) -> pd.DataFrame:
        """What adjacent layers and the GT have to do with each other, one row a layer.

        See `mpdiag.store.consistency.consistency`.
        """
        return consistency(self._connection.cursor())

    def transitions(self, thresholds: Thresholds | None = None) -> pd.DataFrame:
        """How often each class of transition happens in each layer, and what Util gains without.

        See `mpdiag.store.transitions.transitions`; by other `thresholds` than the run's own if
        given. Raises RunError where the rows are too old.
        """
        if self.header["schema_version"] < 2:
            raise RunError(
                f"{self.path} has schema_version 1, which lacks what tells transitions apart: "
                "analyse it again"
            )
        cursor = self._connection.cursor()
        thresholds = thresholds or self.thresholds
        if thresholds == DEFAULT:
            return transitions(cursor, "FROM image_transitions")
        return transitions(cursor, counts(thresholds))

    def masks(self, image_id: int, query: int) -> npt.NDArray[np.bool_]:
        """Masks M^0..M^L of a query, shape (L + 1, height, width), on the prediction grid.

        Raises RunError where the run has not kept them.
        """
        masks = self._decode("query", image_id, query)
        if len(masks) != self.num_layers + 1:
            raise RunError(
                f"{self.path} has not kept the masks of image {image_id}, query {query}: "
                "analyse with --save-masks all"
            )
        return masks

    def attention(self, image_id: int, query: int) -> list[Attention]:
        """Where a query may look, and looks, in decoder layers 1..L.

        Raises RunError where the run has not kept it.
        """
        rows = self.query(
            "SELECT * FROM attention WHERE image_id = ? AND query = ? ORDER BY layer",
            [int(image_id), int(query)],
        )
        if rows.empty:
            raise RunError(
                f"{self.path} has not kept the attention of image {image_id}, query {query}: "
                "analyse with --save-attention"
            )
        try:
            return unpack(rows, self.num_layers)
        except ValueError as error:
            raise RunError(
                f"{self.path / 'attention'}: the attention of image {image_id}, query {query} is "
                f"broken ({error}): analyse it again"
            ) from error

    def gt_masks(self, image_id: int) -> npt.NDArray[np.bool_]:
        """GT masks of an image, shape (GT, height, width); (0, 0, 0) where none were kept."""
        return self._decode("gt", image_id, None)

    def image(self, image_id: int) -> Path:
        """A picture of the image: the run's thumbnail, else the file of the data set.

        Raises RunError where there is neither. No other file is ever given: not one outside of
        the run directory or of the data set's image_root.
        """
        thumbnail = _inside(self.path / "thumbnails", f"{int(image_id)}.jpg")
        if thumbnail is not None:
            return thumbnail
        rows = self.query("SELECT file_name FROM images WHERE image_id = ?", [int(image_id)])
        if rows.empty:
            raise RunError(f"{self.path} has no image {image_id}")
        dataset = self.header.get("dataset")
        root = dataset.get("image_root") if isinstance(dataset, dict) else None
        file = _inside(Path(root), str(rows["file_name"][0])) if isinstance(root, str) else None
        if file is None:
            raise RunError(
                f"{self.path} has no picture of image {image_id}, and {rows['file_name'][0]} is "
                f"not in {root}: analyse again where the data set is"
            )
        return file

    def _decode(self, kind: str, image_id: int, index: int | None) -> npt.NDArray[np.bool_]:
        rows = self.query(
            "SELECT height, width, counts FROM masks "
            "WHERE kind = ? AND image_id = ? AND (index = ? OR ? IS NULL) ORDER BY layer, index",
            [kind, int(image_id), index, index],
        )
        if rows.empty:
            return np.zeros((0, 0, 0), dtype=np.bool_)
        try:
            return np.stack(
                [
                    rle.decode(bytes(counts), int(height), int(width))
                    for height, width, counts in rows.itertuples(index=False)
                ]
            )
        except ValueError as error:
            raise RunError(
                f"{self.path / 'masks'}: a mask of image {image_id} is broken: analyse it again"
            ) from error


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    try:
        connection = connect(path)
        add_views(connection, path)
        return connection
    except duckdb.Error as error:
        raise RunError(
            f"{path} has a Parquet file that can't be read ({_first_line(error)}): analyse it again"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} can't be read as JSON: analyse it again") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is not a JSON object: analyse it again")
    return content


def _is_summary(summary: dict[str, Any]) -> bool:
    layers = summary.get("layers")
    return (
        isinstance(layers, list)
        and all(isinstance(summary.get(key), int) for key in SUMMARY_COUNTS)
        and summary["num_layers"] == len(layers)
        and all(isinstance(layer, dict) for layer in layers)
        and all(
            isinstance(layer.get(key, ""), int | float | None)
            for layer in layers
            for key in LAYER_VALUES
        )
    )


def _inside(root: Path, name: str) -> Path | None:
    """The file `name` below `root`; None where it is missing or, resolved, elsewhere."""
    file = (root / name).resolve()
    return file if file.is_relative_to(root.resolve()) and file.is_file() else None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
