"""Groups of the queries and GT of a run, and the sums of each image for each group.

Each GT is in one group. A query is in the group of the GT that it matches in the last layer, and in
no group if it matches none. Groups of whole images (`all`, `crowding`) contain all their queries.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd

from mpdiag.errors import RunError
from mpdiag.store.bootstrap import Floats, Terms
from mpdiag.store.database import SCALE, image_ids

GroupBy = Literal["all", "class", "size", "crowding", "occlusion", "matched"]
Assignment = Literal["bipartite", "hard"]

GROUPS: dict[str, tuple[str, ...]] = {
    "all": ("all",),
    "size": ("small", "medium", "large"),
    "crowding": ("1 GT", "2-4 GT", "5-9 GT", "10-19 GT", "20+ GT", "no GT"),
    "occlusion": ("none", "below 25%", "25-50%", "50% and more"),
    "matched": ("matched", "unmatched"),
}
"""Names of the groups in order; the groups of `class` have the names of the classes."""

_NUMBER = {
    "class": "label",
    # COCO's sizes: areas in pixels of the image below 32^2, below 96^2, and larger.
    "size": "CASE WHEN pixels < 1024 THEN 0 WHEN pixels < 9216 THEN 1 ELSE 2 END",
    "crowding": "CASE WHEN num_gt = 0 THEN 5 WHEN num_gt < 2 THEN 0 WHEN num_gt < 5 THEN 1 "
    "WHEN num_gt < 10 THEN 2 WHEN num_gt < 20 THEN 3 ELSE 4 END",
    "occlusion": "CASE WHEN covered = 0 THEN 0 WHEN covered < 0.25 THEN 1 "
    "WHEN covered < 0.5 THEN 2 ELSE 3 END",
}


NEEDED_COLUMNS = {"size": "pixels", "occlusion": "covered"}
"""Columns of `targets` that a run of an older schema version may lack, by the group they define."""


@dataclass(frozen=True, slots=True)
class ImageSums:
    """Sums of one group for each of the run's I images and L + 1 layers, (I, L + 1) each.

    Attributes:
        iou: sum of IoU(M^{i-1}, M^i) over the group's queries; 0 in layer 0.
        pairs: number of these queries that have an IoU.
        kept: GT of the group that match the query that they match in the last layer.
        gt: GT of the group, equal in all layers.
    """

    iou: Floats
    pairs: Floats
    kept: Floats
    gt: Floats

    @property
    def util(self) -> Floats:
        """Share of an image's GT that keep their query; 0 without GT (see `has_gt`)."""
        return self.kept / np.maximum(self.gt, 1)

    @property
    def has_gt(self) -> Floats:
        """1 if the image has GT of the group, else 0."""
        return (self.gt > 0).astype(np.float64)

    @property
    def terms(self) -> dict[str, Terms]:
        """Numerator and denominator of the metrics that groups have."""
        return {"miou_l": (self.iou, self.pairs), "util": (self.util, self.has_gt)}


def image_sums(
    connection: duckdb.DuckDBPyConnection,
    by: GroupBy,
    assignment: Assignment,
    names: Sequence[str],
    num_layers: int,
) -> "GroupSums":
    """Return the sums of every group that has a query or GT, in order.

    Args:
        connection: the rows.
        by: all; class, size (COCO's small, medium, large) or occlusion (share of the box that other
            GT cover) of the GT; crowding (number of GT) of the image; or whether a query matches
            in the last layer (Util is then not defined: `gt` is 0).
        assignment: "hard" assigns each query of the MP part to the GT that it was made from.
        names: names of the groups.
        num_layers: L.
    """
    ids = image_ids(connection)
    if by == "all":
        masks_sql = "SELECT 0 AS grp, layer, image_id, iou, pairs FROM image_layers"
        targets_sql = _ALL_KEPT.format("gt" if assignment == "hard" else "kept")
    else:
        masks_sql = _with_groups(by, assignment) + _PAIRS
        targets_sql = _with_groups(by, assignment) + _kept(assignment)
    masks, targets = (connection.execute(sql).df() for sql in (masks_sql, targets_sql))
    numbers = {*masks["grp"], *targets["grp"]}
    if not numbers <= set(range(len(names))):
        raise RunError("a GT has a label that is not in run.json; analyse again")
    known = {names[int(number)]: int(number) for number in sorted(numbers)}
    return GroupSums(known, masks, targets, ids, num_layers)


class GroupSums(Mapping[str, ImageSums]):
    """Name of each group -> its sums.

    They are made when they are read: those of many classes may exceed the memory.
    """

    def __init__(
        self,
        numbers: dict[str, int],
        masks: pd.DataFrame,
        targets: pd.DataFrame,
        ids: npt.NDArray[np.int64],
        num_layers: int,
    ) -> None:
        self._numbers, self._ids, self._num_layers = numbers, ids, num_layers
        self._masks, self._targets = masks, targets
        self._mask_rows, self._target_rows = (
            table.groupby("grp").indices for table in (masks, targets)
        )

    def __getitem__(self, name: str) -> ImageSums:
        number = self._numbers[name]
        masks = self._masks.iloc[self._mask_rows.get(number, [])]
        targets = self._targets.iloc[self._target_rows.get(number, [])]
        return ImageSums(
            self._matrix(masks, "iou"),
            self._matrix(masks, "pairs"),
            self._matrix(targets, "kept"),
            self._matrix(targets, "gt"),
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def totals(self) -> pd.DataFrame:
        """Return the sums over images, one row per group and layer 0..L, without `ImageSums`.

        Columns: group, layer, and the terms of the metrics that groups have: `iou` and `pairs` of
        mIoU-L, `util` and `images` of Util.
        """
        layers = range(self._num_layers + 1)
        keys = ["grp", "layer"]
        pairs = self._masks.groupby(keys)[["iou", "pairs"]].sum()
        util = self._targets["kept"] / self._targets["gt"]
        images = self._targets.assign(util=util, images=1.0).groupby(keys)[["util", "images"]].sum()
        rows = pd.MultiIndex.from_product([self._numbers.values(), layers], names=keys)
        totals = pairs.join(images, how="outer").reindex(rows).fillna(0.0).reset_index()
        names = {number: name for name, number in self._numbers.items()}
        return totals.assign(group=totals["grp"].map(names)).drop(columns="grp")

    def _matrix(self, rows: pd.DataFrame, column: str) -> Floats:
        sums = np.zeros((len(self._ids), self._num_layers + 1))
        sums[np.searchsorted(self._ids, rows["image_id"]), rows["layer"]] = rows[column]
        return sums


def _with_groups(by: GroupBy, assignment: Assignment) -> str:
    own_gt = "query" if assignment == "hard" else "matched_gt"
    last = (
        f"SELECT image_id, query, {own_gt} AS gt FROM queries "
        "WHERE layer = (SELECT max(layer) FROM queries)"
    )
    if by == "matched":
        gts = "SELECT image_id, gt, 0 AS grp FROM targets WHERE false"
        queries = "SELECT image_id, query, CASE WHEN gt >= 0 THEN 0 ELSE 1 END AS grp FROM last"
    else:
        gts = f"SELECT image_id, gt, {_NUMBER[by]} AS grp FROM targets JOIN images USING (image_id)"
        queries = (
            f"SELECT image_id, query, {_NUMBER[by]} AS grp FROM last JOIN images USING (image_id)"
            if by == "crowding"
            else "SELECT image_id, query, grp FROM last JOIN gt_groups USING (image_id, gt)"
        )
    return f"WITH last AS ({last}), gt_groups AS ({gts}), query_groups AS ({queries}) "


_ALL_KEPT = "SELECT 0 AS grp, layer, image_id, {} AS kept, gt FROM image_layers WHERE gt > 0"

_PAIRS = f"""
SELECT grp, layer, image_id,
       coalesce(sum(fixed(iou_prev)), 0) / {SCALE} AS iou, count(iou_prev) AS pairs
FROM queries JOIN query_groups USING (image_id, query)
WHERE layer >= 1 GROUP BY ALL
"""


def _kept(assignment: Assignment) -> str:
    kept = (
        "true" if assignment == "hard" else "query = matched_query[-1] AND matched_query[-1] <> -1"
    )
    return f"""
    SELECT grp, layer, image_id, count(*) FILTER ({kept}) AS kept, count(*) AS gt
    FROM (
        SELECT image_id, gt, matched_query, unnest(matched_query) AS query,
               generate_subscripts(matched_query, 1) - 1 AS layer
        FROM targets
    ) JOIN gt_groups USING (image_id, gt) GROUP BY ALL
    """
