"""SQL queries of the Images page: filter and sort the images of a run by per-image aggregates."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from apps.runs import LoadedRun, cached

SORT_ORDERS = {
    "util": ("Util, lowest first", "util NULLS LAST"),
    "miou_l": ("mIoU-L, lowest first", "miou_l NULLS LAST"),
    "transitions": ("transitions, most first", "transitions DESC NULLS LAST"),
    "objects": ("objects, most first", "num_gt DESC"),
    "name": ("file name", "file_name"),
}
"""URL value -> label and SQL."""
ALL_CHANGES = "all but kept"
"""Stands for all classes of transitions that change the mask."""
PERCENT = (0, 100)


@dataclass(frozen=True, slots=True)
class ImageFilter:
    """Which images to list, and in which order; ranges of fractions are in whole percent."""

    layer: int | None = None
    """Layer of Util, mIoU-L and transitions; None for layers 1..L together."""
    labels: tuple[int, ...] = ()
    """Classes; an image must contain an object of at least one of them."""
    objects: tuple[int, int] | None = None
    util: tuple[int, int] = PERCENT
    miou_l: tuple[int, int] = PERCENT
    transition: str = ALL_CHANGES
    """Class of transitions to count; images without it are left out, except for ALL_CHANGES."""
    order: str = "util"
    """Key of SORT_ORDERS."""


@cached
def find_images(
    loaded: LoadedRun, filters: ImageFilter, limit: int, offset: int = 0
) -> pd.DataFrame:
    """Return the images that match the filters, in order.

    Columns: image_id, file_name, num_gt, util and miou_l (fractions; null without GT or masks),
    transitions (number of the chosen class), total (number of matching images).
    """
    params: list[Any] = [filters.layer, filters.layer, filters.layer, filters.layer]
    params += [filters.transition, filters.transition]
    where = ["true"]
    if filters.objects is not None:
        where.append("num_gt BETWEEN ? AND ?")
        params += filters.objects
    for column, (low, high) in (("util", filters.util), ("miou_l", filters.miou_l)):
        if (low, high) != PERCENT:
            where.append(f"{column} BETWEEN ? AND ?")
            params += [low / 100, high / 100]
    if filters.labels:
        where.append("image_id IN (SELECT image_id FROM targets WHERE list_contains(?, label))")
        params.append(list(filters.labels))
    if filters.transition != ALL_CHANGES:
        where.append("transitions > 0")
    return loaded.run.query(
        f"""
        WITH metrics AS (
            SELECT image_id, sum(kept) / nullif(sum(gt), 0) AS util,
                   sum(iou) / nullif(sum(pairs), 0) AS miou_l
            FROM image_layers WHERE layer >= 1 AND (? IS NULL OR layer = ?) GROUP BY image_id
        ),
        changes AS (
            SELECT image_id, sum(count)::BIGINT AS transitions
            FROM image_transitions
            WHERE (? IS NULL OR layer = ?)
                AND CASE WHEN ? = '{ALL_CHANGES}' THEN kind <> 'kept' ELSE kind = ? END
            GROUP BY image_id
        )
        SELECT image_id, file_name, num_gt, util, miou_l,
               coalesce(transitions, 0) AS transitions, count(*) OVER () AS total
        FROM (SELECT image_id, file_name, num_gt FROM images)
        LEFT JOIN metrics USING (image_id) LEFT JOIN changes USING (image_id)
        WHERE {" AND ".join(where)}
        ORDER BY {SORT_ORDERS[filters.order][1]}, image_id LIMIT ? OFFSET ?
        """,
        [*params, limit, offset],
    )


@cached
def max_objects(loaded: LoadedRun) -> int:
    """Return the largest number of objects in an image."""
    return int(loaded.run.query("SELECT coalesce(max(num_gt), 0) AS most FROM images")["most"][0])
