"""Columns of the Parquet files in a run directory; docs/run-directory.md gives their meaning."""

import pyarrow as pa

SCHEMA_VERSION = 3

QUERIES = pa.schema(
    [
        ("image_id", pa.int64()),
        ("layer", pa.int16()),
        ("query", pa.int16()),
        ("iou_prev", pa.float64()),
        ("intersection_prev", pa.int64()),
        ("area", pa.int64()),
        ("area_prev", pa.int64()),
        ("matched_gt", pa.int32()),
        ("best_gt", pa.int32()),
        ("best_gt_iou", pa.float64()),
        ("matched_gt_iou", pa.float64()),
        ("label", pa.int32()),
        ("score", pa.float64()),
        ("second_coverage", pa.float64()),
        ("class_cost", pa.float64()),
        ("mask_cost", pa.float64()),
        ("dice_cost", pa.float64()),
        ("margin", pa.float64()),
        ("fed_gt_iou", pa.float64()),
        ("center_x", pa.float32()),
        ("center_y", pa.float32()),
    ]
)

TARGETS = pa.schema(
    [
        ("image_id", pa.int64()),
        ("gt", pa.int32()),
        ("category_id", pa.int64()),
        ("label", pa.int32()),
        ("area", pa.int64()),
        ("bbox", pa.list_(pa.float64())),
        ("matched_query", pa.list_(pa.int16())),
        ("pixels", pa.float64()),
        ("covered", pa.float64()),
        ("best_query", pa.list_(pa.int16())),
        ("best_query_iou", pa.list_(pa.float64())),
    ]
)

IMAGES = pa.schema(
    [
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("input_height", pa.int32()),
        ("input_width", pa.int32()),
        ("num_gt", pa.int32()),
        ("util", pa.list_(pa.float64())),
    ]
)

MASKS = pa.schema(
    [
        ("image_id", pa.int64()),
        ("kind", pa.string()),
        ("layer", pa.int16()),
        ("index", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("counts", pa.binary()),
        ("badness", pa.float64()),
    ]
)

ATTENTION = pa.schema(
    [
        ("image_id", pa.int64()),
        ("layer", pa.int16()),
        ("query", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image_height", pa.float64()),
        ("image_width", pa.float64()),
        ("counts", pa.binary()),
        ("weights", pa.binary()),
        ("step", pa.float64()),
    ]
)

DETECTIONS = pa.schema(
    [
        ("image_id", pa.int64()),
        ("layer", pa.int16()),
        ("query", pa.int16()),
        ("label", pa.int32()),
        ("score", pa.float64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("counts", pa.binary()),
    ]
)

TABLES: dict[str, pa.Schema] = {
    "queries": QUERIES,
    "targets": TARGETS,
    "images": IMAGES,
    "masks": MASKS,
    "attention": ATTENTION,
    "detections": DETECTIONS,
}

ADDED: dict[str, frozenset[str]] = {
    "queries": frozenset(
        [
            *("second_coverage", "class_cost", "mask_cost", "dice_cost", "margin", "fed_gt_iou"),
            *("center_x", "center_y"),  # since version 3
        ]
    ),
    "targets": frozenset(["pixels", "covered", "best_query", "best_query_iou"]),
    "images": frozenset(),
    "masks": frozenset(),
    "attention": frozenset(),
    "detections": frozenset(["layer"]),
}
"""Columns that a run of an older version may lack: they read as null."""
