"""Columns of the Parquet files in a run directory: each is declared once, here.

To add a column, add it to its table below with the next `SCHEMA_VERSION` in `since`, fill it in
mpdiag/analysis/tables.py, and update docs/run-directory.md, which a test checks.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import pyarrow as pa

SCHEMA_VERSION = 4

_INT16, _INT32, _INT64 = pa.int16(), pa.int32(), pa.int64()
_FLOAT32, _FLOAT64 = pa.float32(), pa.float64()


class Column(NamedTuple):
    """A column: name, Arrow type, meaning, and the schema version that added it.

    `since` says from which version of the run directory on every run has the column. In older runs
    it is null.
    """

    name: str
    type: pa.DataType
    meaning: str
    since: int = 1


COLUMNS: Mapping[str, tuple[Column, ...]] = MappingProxyType({
    "queries": (
        Column("image_id", _INT64, "image id of the data set; its position from 1 if the data set "
               "has no integer ids"),
        Column("layer", _INT16, "0..L"),
        Column("query", _INT16, "0..N-1"),
        Column("iou_prev", _FLOAT64, "IoU of M^{layer-1} and M^layer; null in layer 0, if both "
               "masks are empty, and if one is not finite"),
        Column("intersection_prev", _INT64, "cells that are in both masks; null in layer 0"),
        Column("area", _INT64, "cells of the mask; null if mask or class is not finite, as are "
               "all values measured on it"),
        Column("area_prev", _INT64, "cells of the mask in the layer before; null in layer 0"),
        Column("matched_gt", _INT32, "V^layer: GT that the query matches in this layer, or -1"),
        Column("best_gt", _INT32, "GT with the highest IoU, or -1 if no GT overlaps"),
        Column("best_gt_iou", _FLOAT64, "IoU with `best_gt`; 0 if no GT overlaps"),
        Column("matched_gt_iou", _FLOAT64, "IoU with the matched GT; null if unmatched"),
        Column("label", _INT32, "class with the highest probability, except no-object"),
        Column("score", _FLOAT64, "probability of `label`"),
        Column("second_coverage", _FLOAT64, "second highest share of a GT's cells that the mask "
               "covers; high if it covers several GT", 2),
        Column("class_cost", _FLOAT64, "weighted class cost of the match as weight · (1 - p), so "
               "that 0 is best; null if unmatched", 2),
        Column("mask_cost", _FLOAT64, "weighted mask cost of the match; null if unmatched", 2),
        Column("dice_cost", _FLOAT64, "weighted dice cost of the match; null if unmatched", 2),
        Column("margin", _FLOAT64, "lowest cost of the matched GT with another query, minus its "
               "cost with this query; negative if another GT took its cheapest query", 2),
        Column("fed_gt_iou", _FLOAT64, "MP part: IoU with the GT from which the query was made; "
               "the index of that GT is `query`", 2),
        Column("center_x", _FLOAT32, "mean x of the mask's cell centres as a fraction of the "
               "valid width; null if empty", 3),
        Column("center_y", _FLOAT32, "mean y of the mask's cell centres as a fraction of the "
               "valid height; null if empty", 3),
    ),
    "targets": (
        Column("image_id", _INT64, "image id of the data set"),
        Column("gt", _INT32, "index of the GT in the image, 0..G-1"),
        Column("category_id", _INT64, "category id of the data set"),
        Column("label", _INT32, "position in `classes` of run.json"),
        Column("area", _INT64, "cells"),
        Column("bbox", pa.list_(_FLOAT64), "x, y, width, height in pixels of the original image"),
        Column("matched_query", pa.list_(_INT16), "for each layer, the query that matches, or -1"),
        Column("pixels", _FLOAT64, "pixels of the image file, for COCO's sizes", 2),
        Column("covered", _FLOAT64, "share of the cells of its box that other GT cover", 2),
        Column("best_query", pa.list_(_INT16), "for each layer, the query with the highest IoU, "
               "or -1 if none overlaps", 2),
        Column("best_query_iou", pa.list_(_FLOAT64), "for each layer, the IoU with "
               "`best_query`; 0 if none overlaps", 2),
    ),
    "images": (
        Column("image_id", _INT64, "image id of the data set"),
        Column("file_name", pa.string(), "path below `dataset.image_root` of run.json"),
        Column("height", _INT32, "height of the image file in pixels"),
        Column("width", _INT32, "width of the image file in pixels"),
        Column("input_height", _INT32, "height of the model input in pixels, without padding"),
        Column("input_width", _INT32, "width of the model input in pixels, without padding"),
        Column("num_gt", _INT32, "number of GT in the image"),
        Column("util", pa.list_(_FLOAT64), "Util of each layer; empty if `num_gt` is 0"),
    ),
    "detections": (
        Column("image_id", _INT64, "image id of the data set"),
        Column("layer", _INT16, "layer of the detection; only the last by default", 2),
        Column("query", _INT16, "query of the detection; -1 for a panoptic segment or class map"),
        Column("label", _INT32, "contiguous class index"),
        Column("score", _FLOAT64, "class probability times mask quality; 1 for a panoptic segment "
               "or class map"),
        Column("height", _INT32, "height of the image file in pixels"),
        Column("width", _INT32, "width of the image file in pixels"),
        Column("counts", pa.binary(), "mask as COCO compressed RLE"),
    ),
    "masks": (
        Column("image_id", _INT64, "image id of the data set"),
        Column("kind", pa.string(), "`query` or `gt`"),
        Column("layer", _INT16, "0..L; -1 for a GT"),
        Column("index", _INT32, "index of the query or GT"),
        Column("height", _INT32, "height of the mask in cells"),
        Column("width", _INT32, "width of the mask in cells"),
        Column("counts", pa.binary(), "mask as COCO compressed RLE"),
        Column("change_score", _FLOAT64, "sum over layers of 1 - IoU with the layer before, where "
               "pairs of empty masks count 0; null for a GT"),
    ),
    "attention": (
        Column("image_id", _INT64, "image id of the data set"),
        Column("layer", _INT16, "decoder layer 1..L"),
        Column("query", _INT32, "0..N-1"),
        Column("height", _INT32, "height of the layer's grid in cells, over the padded image"),
        Column("width", _INT32, "width of the layer's grid in cells, over the padded image"),
        Column("image_height", _FLOAT64, "rows of the grid that show the image; may be a fraction"),
        Column("image_width", _FLOAT64, "columns of the grid that show the image; may be a "
               "fraction"),
        Column("counts", pa.binary(), "attention mask as COCO compressed RLE, set where the query "
               "may attend; null if the model has none"),
        Column("weights", pa.binary(), "cross-attention averaged over heads, one byte per cell, "
               "row by row"),
        Column("step", _FLOAT64, "attention weight of one unit of a byte: highest weight / 255"),
    ),
})  # fmt: skip
"""Table -> columns in the order of the files."""

TABLES: Mapping[str, pa.Schema] = MappingProxyType({
    table: pa.schema([(column.name, column.type) for column in columns])
    for table, columns in COLUMNS.items()
})  # fmt: skip
"""Table -> Arrow schema."""

QUERIES, TARGETS, IMAGES, DETECTIONS, MASKS, ATTENTION = TABLES.values()
