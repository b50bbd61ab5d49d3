"""Convert measured images to the Arrow tables of a run directory."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from mpdiag.analysis.measure import MeasuredImage
from mpdiag.data import ClassInfo, Sample
from mpdiag.metrics import adjacent_iou
from mpdiag.store.schema import DETECTIONS, IMAGES, QUERIES, TARGETS


def queries_table(image: MeasuredImage) -> pa.Table:
    """Return one row per layer and query of an image; values that are not finite are null."""
    rows, matches = image.rows, image.matches
    layers, queries = rows.area.shape
    first_layer = torch.ones(layers, queries, dtype=torch.bool)
    first_layer[1:] = False
    zeros = torch.zeros(1, queries, dtype=torch.int64)
    intersection = torch.cat([zeros, rows.intersection])
    previous_area = torch.cat([zeros, rows.area[:-1]])
    iou = torch.cat([zeros, adjacent_iou(rows.intersection, rows.area)])
    not_finite = ~rows.finite
    no_previous = first_layer | torch.cat([not_finite[:1], not_finite[:-1]])
    no_pair = no_previous | not_finite
    unmatched = rows.matched_gt < 0
    fed = torch.full_like(iou, torch.nan) if rows.fed_gt_iou is None else rows.fed_gt_iou
    layer, query = torch.meshgrid(torch.arange(layers), torch.arange(queries), indexing="ij")
    columns = {
        "image_id": torch.full((layers, queries), image.sample.image_id),
        "layer": layer,
        "query": query,
        "iou_prev": _nullable(iou, no_pair | iou.isnan()),
        "intersection_prev": _nullable(intersection, no_pair),
        "area": _nullable(rows.area, not_finite),
        "area_prev": _nullable(previous_area, no_previous),
        "matched_gt": rows.matched_gt,
        "best_gt": rows.best_gt,
        "best_gt_iou": _nullable(rows.best_gt_iou, not_finite),
        "matched_gt_iou": _nullable(rows.matched_gt_iou, unmatched),
        "label": _nullable(rows.label, not_finite),
        "score": _nullable(rows.score, not_finite),
        "second_coverage": _nullable(rows.second_coverage, not_finite),
        "class_cost": _nullable(matches.class_cost, unmatched),
        "mask_cost": _nullable(matches.mask_cost, unmatched),
        "dice_cost": _nullable(matches.dice_cost, unmatched),
        "margin": _nullable(matches.margin, matches.margin.isnan()),
        "fed_gt_iou": _nullable(fed, not_finite | fed.isnan()),
        "center_x": _nullable(rows.center[..., 0], rows.area == 0),
        "center_y": _nullable(rows.center[..., 1], rows.area == 0),
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column.flatten().numpy())
        for column in columns.values()
    ]
    return pa.table(arrays, names=list(columns)).cast(QUERIES)


def _nullable(values: torch.Tensor, null: torch.Tensor) -> pa.Array:
    return pa.array(values.flatten().numpy(), mask=null.flatten().numpy())


def targets_table(image: MeasuredImage, classes: Sequence[ClassInfo]) -> pa.Table:
    """Return one row per GT of an image."""
    sample, measured = image.sample, image.rows
    matched_query = query_of_gt(measured.matched_gt.numpy(), len(sample.labels))
    boxes = _boxes(sample)
    height, width = sample.masks.shape[-2:]
    scale = sample.original_size[0] * sample.original_size[1] / (height * width)
    # NumPy counts and reduces bool many times faster than PyTorch.
    pixels = torch.tensor([np.count_nonzero(mask) for mask in sample.masks.numpy()]) * scale
    rows = [
        {
            "image_id": sample.image_id,
            "gt": gt,
            "category_id": classes[label].category_id,
            "label": label,
            "area": int(measured.gt_area[gt]),
            "bbox": boxes[gt],
            "matched_query": matched_query[:, gt].tolist(),
            "pixels": float(pixels[gt]),
            "covered": float(measured.gt_covered[gt]),
            "best_query": measured.best_query[:, gt].tolist(),
            "best_query_iou": measured.best_query_iou[:, gt].tolist(),
        }
        for gt, label in enumerate(sample.labels.tolist())
    ]
    return pa.Table.from_pylist(rows, schema=TARGETS)


def query_of_gt(matched_gt: np.ndarray, count: int) -> np.ndarray:
    """Return the query (L + 1, G) that each GT matches in each layer, or -1, from V (L + 1, N)."""
    matched_query = np.full((len(matched_gt), count), -1)
    layer, query = np.nonzero(matched_gt >= 0)
    matched_query[layer, matched_gt[layer, query]] = query
    return matched_query


def _boxes(sample: Sample) -> list[list[float]]:
    """Return x, y, width and height of each mask in pixels of the image file."""
    height, width = sample.masks.shape[-2:]
    scale_y, scale_x = sample.original_size[0] / height, sample.original_size[1] / width
    boxes = []
    for mask in sample.masks.numpy():
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(ys):
            boxes.append([0.0, 0.0, 0.0, 0.0])
            continue
        left, top = int(xs[0]), int(ys[0])
        box_width, box_height = int(xs[-1]) - left + 1, int(ys[-1]) - top + 1
        boxes.append([left * scale_x, top * scale_y, box_width * scale_x, box_height * scale_y])
    return boxes


def images_table(image: MeasuredImage) -> pa.Table:
    """Return the row of an image."""
    sample, count = image.sample, len(image.sample.labels)
    row = {
        "image_id": sample.image_id,
        "file_name": sample.file_name,
        "height": sample.original_size[0],
        "width": sample.original_size[1],
        "input_height": sample.image.shape[-2],
        "input_width": sample.image.shape[-1],
        "num_gt": count,
        "util": image.rows.util.tolist() if count else [],
    }
    return pa.Table.from_pylist([row], schema=IMAGES)


def detections_table(image: MeasuredImage) -> pa.Table:
    """Return one row per detection of an image, in the layers that are evaluated."""
    rows = [
        {
            "image_id": image.sample.image_id,
            "layer": layer,
            "query": query,
            "label": label,
            "score": score,
            "height": detections.size[0],
            "width": detections.size[1],
            "counts": counts,
        }
        for layer, detections in image.detections.items()
        for query, label, score, counts in zip(
            detections.queries.tolist(),
            detections.labels.tolist(),
            detections.scores.tolist(),
            detections.counts,
            strict=True,
        )
    ]
    return pa.Table.from_pylist(rows, schema=DETECTIONS)
