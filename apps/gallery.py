"""The images of a run: which fit a filter, in which order, by SQL over the sums of each image."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from apps.runs import Loaded, cached

ORDERS = {
    "util": ("Util, lowest first", "util NULLS LAST"),
    "miou_l": ("mIoU-L, lowest first", "miou_l NULLS LAST"),
    "moves": ("transitions, most first", "moves DESC NULLS LAST"),
    "objects": ("objects, most first", "num_gt DESC"),
    "name": ("file name", "file_name"),
}
"""Key in the address -> words, and SQL."""
ANY = "all but kept"
"""Stands for all classes of transitions in which the mask changed."""
PERCENT = (0, 100)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which images are looked for; shares in whole percent."""

    layer: int | None = None
    """Layer of Util, mIoU-L and transitions; None for all of 1..L together."""
    labels: tuple[int, ...] = ()
    """Classes of which an image must have an object; any of them will do."""
    objects: tuple[int, int] | None = None
    util: tuple[int, int] = PERCENT
    miou_l: tuple[int, int] = PERCENT
    kind: str = ANY
    """Class of transitions to count; another than ANY must happen in the image."""
    order: str = "util"
    """One of ORDERS."""


@cached
def find(loaded: Loaded, wanted: Filter, limit: int, offset: int = 0) -> pd.DataFrame:
    """The images that fit, in order.

    Columns: image_id, file_name, num_gt, util and miou_l (fractions; null without GT or masks),
    moves (transitions of the wanted class), total (how many images fit).
    """
    params: list[Any] = [wanted.layer, wanted.layer, wanted.layer, wanted.layer]
    params += [wanted.kind, wanted.kind]
    where = ["true"]
    if wanted.objects is not None:
        where.append("num_gt BETWEEN ? AND ?")
        params += wanted.objects
    for column, (low, high) in (("util", wanted.util), ("miou_l", wanted.miou_l)):
        if (low, high) != PERCENT:
            where.append(f"{column} BETWEEN ? AND ?")
            params += [low / 100, high / 100]
    if wanted.labels:
        where.append("image_id IN (SELECT image_id FROM targets WHERE list_contains(?, label))")
        params.append(list(wanted.labels))
    if wanted.kind != ANY:
        where.append("moves > 0")
    return loaded.run.query(
        f"""
        WITH own AS (
            SELECT image_id, sum(kept) / nullif(sum(gt), 0) AS util,
                   sum(iou) / nullif(sum(pairs), 0) AS miou_l
            FROM image_layers WHERE layer >= 1 AND (? IS NULL OR layer = ?) GROUP BY image_id
        ),
        moving AS (
            SELECT image_id, sum(count)::BIGINT AS moves
            FROM image_transitions
            WHERE (? IS NULL OR layer = ?)
                AND CASE WHEN ? = '{ANY}' THEN kind <> 'kept' ELSE kind = ? END
            GROUP BY image_id
        )
        SELECT image_id, file_name, num_gt, util, miou_l, coalesce(moves, 0) AS moves,
               count(*) OVER () AS total
        FROM (SELECT image_id, file_name, num_gt FROM images)
        LEFT JOIN own USING (image_id) LEFT JOIN moving USING (image_id)
        WHERE {" AND ".join(where)}
        ORDER BY {ORDERS[wanted.order][1]}, image_id LIMIT ? OFFSET ?
        """,
        [*params, limit, offset],
    )


@cached
def most_objects(loaded: Loaded) -> int:
    """How many objects the fullest image has."""
    return int(loaded.run.query("SELECT coalesce(max(num_gt), 0) AS most FROM images")["most"][0])
