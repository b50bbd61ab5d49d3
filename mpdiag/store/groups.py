"""Ways to divide the queries and GT of a run, and the sums of each image for each group.

A GT stands in one group. A query stands in that of the GT that it matches in the last layer, and
in none if it matches none; where the whole image is grouped (`all`, `crowding`), in its image's.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from mpdiag.errors import ConfigError, RunError
from mpdiag.store.database import SCALE

if TYPE_CHECKING:
    from mpdiag.store.run import Run

Floats = npt.NDArray[np.float64]
By = Literal["all", "class", "size", "crowding", "occlusion", "matched"]
Assignment = Literal["bipartite", "hard"]

GROUPS: dict[str, tuple[str, ...]] = {
    "all": ("all",),
    "size": ("small", "medium", "large"),
    "crowding": ("1 GT", "2-4 GT", "5-9 GT", "10-19 GT", "20+ GT", "no GT"),
    "occlusion": ("none", "below 25%", "25-50%", "50% and more"),
    "matched": ("matched", "unmatched"),
}
"""Names of the groups in their order; those of `class` are the names of the run's classes."""

_NUMBER = {
    "class": "label",
    # COCO's sizes: areas in pixels of the image below 32^2, below 96^2, and all others.
    "size": "CASE WHEN pixels < 1024 THEN 0 WHEN pixels < 9216 THEN 1 ELSE 2 END",
    "crowding": "CASE WHEN num_gt = 0 THEN 5 WHEN num_gt < 2 THEN 0 WHEN num_gt < 5 THEN 1 "
    "WHEN num_gt < 10 THEN 2 WHEN num_gt < 20 THEN 3 ELSE 4 END",
    "occlusion": "CASE WHEN covered = 0 THEN 0 WHEN covered < 0.25 THEN 1 "
    "WHEN covered < 0.5 THEN 2 ELSE 3 END",
}


@dataclass(frozen=True, slots=True)
class ImageSums:
    """Sums of one group, image by image; I images (all of the run) by L + 1 layers.

    Attributes:
        iou: sum of IoU(M^{i-1}, M^i) over the group's queries; nothing in layer 0.
        pairs: how many of these have an IoU.
        kept: GT of the group whose query is that of the last layer.
        gt: GT of the group, the same in each layer.
    """

    iou: Floats
    pairs: Floats
    kept: Floats
    gt: Floats

    @property
    def util(self) -> Floats:
        """Share of an image's GT that keep their query; 0 without GT, which `has_gt` tells."""
        return self.kept / np.maximum(self.gt, 1)

    @property
    def has_gt(self) -> Floats:
        """1 where the image has GT of the group, else 0."""
        return (self.gt > 0).astype(np.float64)


def image_ids(run: "Run") -> npt.NDArray[np.int64]:
    """Ids of the run's images in ascending order: the rows of `ImageSums`."""
    return run.query("SELECT image_id FROM images ORDER BY image_id")["image_id"].to_numpy()


def image_sums(
    run: "Run", by: By = "all", assignment: Assignment = "bipartite"
) -> dict[str, ImageSums]:
    """The sums of every group that has any query or GT, by its name, in order.

    Args:
        run: an open run.
        by: all; class, size (COCO's S, M, L) or occlusion (share of the box that other GT hold)
            of the GT; crowding (number of GT) of the image; or whether a query matches in the last
            layer (there Util is not defined: `gt` is 0).
        assignment: hard assigns each query of the MP part to the GT that it was fed.

    Raises:
        ConfigError: no such group or assignment.
        RunError: the run has not what this needs.
    """
    _check(run, by, assignment)
    names = GROUPS.get(by) or _class_names(run)
    ids = image_ids(run)
    if by == "all":
        masks = run.query("SELECT 0 AS grp, layer, image_id, iou, pairs FROM image_layers")
        targets = run.query(_ALL_KEPT.format("gt" if assignment == "hard" else "kept"))
    else:
        masks = run.query(_with_groups(by, assignment) + _PAIRS)
        targets = run.query(_with_groups(by, assignment) + _kept(assignment))
    shape = (len(ids), run.num_layers + 1)

    def matrix(table: pd.DataFrame, number: int, column: str) -> Floats:
        rows = table[table["grp"] == number]
        sums = np.zeros(shape)
        sums[np.searchsorted(ids, rows["image_id"]), rows["layer"]] = rows[column]
        return sums

    return {
        names[number]: ImageSums(
            matrix(masks, number, "iou"),
            matrix(masks, number, "pairs"),
            matrix(targets, number, "kept"),
            matrix(targets, number, "gt"),
        )
        for number in sorted({*masks["grp"], *targets["grp"]})
    }


def _with_groups(by: By, assignment: Assignment) -> str:
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


def _class_names(run: "Run") -> tuple[str, ...]:
    try:
        return tuple(str(info["name"]) for info in run.header["classes"])
    except (KeyError, TypeError):
        raise RunError(f"{run.path / 'run.json'} names no classes: analyse it again") from None


def _check(run: "Run", by: By, assignment: Assignment) -> None:
    if by not in get_args(By) or assignment not in get_args(Assignment):
        raise ConfigError(
            f"no such division or assignment: {by}, {assignment}; choose from "
            f"{', '.join(get_args(By))}, and from {', '.join(get_args(Assignment))}"
        )
    if assignment == "hard" and run.header.get("part") != "piloted":
        raise RunError(
            f"{run.path} is of the matching part, whose queries have no GT of their own: hard "
            "assignment needs --part piloted"
        )
    if by in ("size", "occlusion") and run.header["schema_version"] < 2:
        raise RunError(
            f"{run.path} has schema_version 1, which lacks the {by} of GT: analyse it again"
        )
