"""What the page Queries asks of a run's rows: how much each query does, and where on the image."""

import pandas as pd

from apps.runs import Loaded, cached

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

_OF_MASKS = """
SELECT center_x AS x, center_y AS y FROM queries
WHERE layer = ? AND query = ? AND center_x IS NOT NULL AND center_y IS NOT NULL
"""

_OF_GT = """
SELECT (bbox[1] + bbox[3] / 2) / width AS x, (bbox[2] + bbox[4] / 2) / height AS y
FROM queries JOIN images USING (image_id)
JOIN targets ON targets.image_id = queries.image_id AND gt = matched_gt
WHERE layer = ? AND query = ?
"""

_BINNED = f"""
SELECT least(greatest(floor(x * {BINS}), 0), {BINS - 1})::INTEGER AS x,
       least(greatest(floor(y * {BINS}), 0), {BINS - 1})::INTEGER AS y, count(*) AS count
FROM ({{}}) GROUP BY ALL ORDER BY ALL
"""

_LABELS = """
SELECT targets.label, count(*) AS count, avg(matched_gt_iou) AS iou
FROM queries JOIN targets ON targets.image_id = queries.image_id AND gt = matched_gt
WHERE layer = ? AND query = ? GROUP BY ALL ORDER BY count DESC, targets.label
"""

_BEST = """
SELECT image_id, file_name, matched_gt, matched_gt_iou AS iou
FROM queries JOIN images USING (image_id)
WHERE layer = ? AND query = ? AND matched_gt >= 0
ORDER BY iou DESC, image_id LIMIT ?
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
def places_of_masks(one: Loaded, layer: int, query: int) -> pd.DataFrame:
    """Where on the image the centres of a query's masks lie: columns x, y (bins), count."""
    return one.run.query(_BINNED.format(_OF_MASKS), [layer, query])


@cached
def places_of_gt(one: Loaded, layer: int, query: int) -> pd.DataFrame:
    """Where the centres of the boxes of the GT lie that a query matches: x, y (bins), count."""
    return one.run.query(_BINNED.format(_OF_GT), [layer, query])


@cached
def labels_matched(one: Loaded, layer: int, query: int) -> pd.DataFrame:
    """The classes of the GT that a query matches, commonest first: label, count, iou."""
    return one.run.query(_LABELS, [layer, query])


@cached
def best_matches(one: Loaded, layer: int, query: int, count: int) -> pd.DataFrame:
    """The images in which a query fits its GT best: image_id, file_name, matched_gt, iou."""
    return one.run.query(_BEST, [layer, query, count])
