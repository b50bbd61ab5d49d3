"""What the page Queries asks of a run's rows: how much each query does, and where on the image."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from apps.runs import Loaded, cached

Counts = npt.NDArray[np.int64]

BINS = 20
"""Columns and rows of the map of an image, whatever its size."""

_USE = """
SELECT query, count(*) FILTER (matched_gt >= 0) AS matches, avg(matched_gt_iou) AS iou,
       count(*) FILTER (area = 0) / nullif(count(area), 0) AS empty,
       avg(area / (ceil(input_height / 4) * ceil(input_width / 4))) AS area,
       stddev_pop(center_x) AS spread_x, stddev_pop(center_y) AS spread_y
FROM queries JOIN images USING (image_id)
WHERE layer = ? GROUP BY query ORDER BY query
"""

_OWN = """
WITH own AS (
    SELECT image_id, center_x AS x, center_y AS y, matched_gt AS gt, matched_gt_iou AS iou
    FROM queries WHERE layer = ? AND query = ?
)
SELECT image_id, file_name, x, y, gt, iou, label,
       (bbox[1] + bbox[3] / 2) / width AS gt_x, (bbox[2] + bbox[4] / 2) / height AS gt_y
FROM own JOIN images USING (image_id) LEFT JOIN targets USING (image_id, gt)
ORDER BY image_id
"""


@cached
def use(one: Loaded, layer: int) -> pd.DataFrame:
    """One row for each query over all images, of its masks in a layer.

    Columns: query; matches, the images in which it matches a GT; iou, with these GT, on average;
    empty, share of its masks; area, share of the image, on average; spread_x and spread_y, standard
    deviation of the masks' centres, as shares of the image's width and height.
    """
    return one.run.query(_USE, [layer])


@cached
def of_query(one: Loaded, layer: int, query: int) -> pd.DataFrame:
    """One row for each image, of a query's mask in a layer; places as shares of the image.

    Columns: image_id, file_name; x and y of the mask's centre, null where it is empty or the run is
    too old to tell; gt that it matches, -1 for none, and of that iou, label, gt_x and gt_y, the
    centre of its box.
    """
    return one.run.query(_OWN, [layer, query])


def places(x: pd.Series, y: pd.Series) -> Counts:
    """How many points lie in each part of the image, (BINS, BINS) from the upper left corner."""
    known = (x.notna() & y.notna()).to_numpy()
    column, row = (
        np.clip(values.to_numpy()[known] * BINS, 0, BINS - 1).astype(int) for values in (x, y)
    )
    counts = np.zeros((BINS, BINS), dtype=np.int64)
    np.add.at(counts, (row, column), 1)
    return counts
