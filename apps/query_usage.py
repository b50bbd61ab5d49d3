"""SQL queries of the Queries page: what each query matches, and where its masks are."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from apps.runs import LoadedRun, cached

Counts = npt.NDArray[np.int64]

BINS = 20
"""Columns and rows of the map of mask centers."""

# The stride follows from the saved masks. Without masks it is 4, as in Mask2Former.
_USAGE = """
WITH grid AS (
    SELECT coalesce(max(greatest(round(input_height / masks.height), 1)), 4) AS stride
    FROM masks JOIN images USING (image_id) WHERE masks.height > 0
)
SELECT query, count(*) FILTER (matched_gt >= 0) AS matches, avg(matched_gt_iou) AS iou,
       count(*) FILTER (area = 0) / nullif(count(area), 0) AS empty,
       avg(area / (ceil(input_height / stride) * ceil(input_width / stride))) AS area,
       stddev_pop(center_x) AS spread_x, stddev_pop(center_y) AS spread_y
FROM queries JOIN images USING (image_id), grid
WHERE layer = ? GROUP BY query ORDER BY query
"""

_MASKS = """
WITH masks_of_query AS (
    SELECT image_id, center_x AS x, center_y AS y, matched_gt AS gt, matched_gt_iou AS iou
    FROM queries WHERE layer = ? AND query = ?
)
SELECT image_id, file_name, x, y, gt, iou, label,
       (bbox[1] + bbox[3] / 2) / width AS gt_x, (bbox[2] + bbox[4] / 2) / height AS gt_y
FROM masks_of_query JOIN images USING (image_id) LEFT JOIN targets USING (image_id, gt)
ORDER BY image_id
"""


@cached
def usage_by_query(loaded: LoadedRun, layer: int) -> pd.DataFrame:
    """Return one row per query with statistics of its masks in a layer over all images.

    Columns: query; matches, number of images in which it matches a GT; iou, mean IoU with this GT;
    empty, share of empty masks; area, mean area as a fraction of the image; spread_x and spread_y,
    standard deviation of the mask centers as fractions of the image's width and height.
    """
    return loaded.run.query(_USAGE, [layer])


def masks_of_query(loaded: LoadedRun, layer: int, query: int) -> pd.DataFrame:
    """Return one row per image for a query's mask in a layer; positions as fractions of the image.

    Columns: image_id, file_name; x and y of the mask's center, null if it is empty or the run is of
    schema version 2 or older; gt, index of the matched GT or -1; iou with it, its label, and gt_x
    and gt_y, the center of its box. It is not cached: it has a row per image, for each query.
    """
    return loaded.run.query(_MASKS, [layer, query])


def center_histogram(x: pd.Series, y: pd.Series) -> Counts:
    """Count the points in each cell of the image, shape (BINS, BINS), from the top left corner."""
    known = (x.notna() & y.notna()).to_numpy()
    column, row = (
        np.clip(values.to_numpy()[known] * BINS, 0, BINS - 1).astype(int) for values in (x, y)
    )
    counts = np.zeros((BINS, BINS), dtype=np.int64)
    np.add.at(counts, (row, column), 1)
    return counts
