"""Rows of measured images as the Arrow tables of a run directory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from mpdiag.data import ClassInfo, Sample
from mpdiag.evaluation import Found
from mpdiag.metrics import ImageRows
from mpdiag.store.schema import DETECTIONS, IMAGES, QUERIES, TARGETS


@dataclass(frozen=True, slots=True)
class MeasuredImage:
    """One image, its numbers, and the sample it was measured on (at the model's input size).

    `detections` are what the last layer found at the size of the image file, if asked for.
    """

    sample: Sample
    rows: ImageRows
    detections: Found | None = None


def queries_table(image: MeasuredImage) -> pa.Table:
    """One row for each layer and query of an image."""
    rows = image.rows
    layers, queries = rows.area.shape
    first = torch.ones(layers, queries, dtype=torch.bool)
    first[1:] = False
    nothing = torch.zeros(1, queries, dtype=torch.int64)
    intersection = torch.cat([nothing, rows.intersection])
    before = torch.cat([nothing, rows.area[:-1]])
    union = before + rows.area - intersection
    iou = intersection.double() / union.clamp(min=1)
    layer, query = torch.meshgrid(torch.arange(layers), torch.arange(queries), indexing="ij")
    columns = {
        "image_id": torch.full((layers, queries), image.sample.image_id),
        "layer": layer,
        "query": query,
        "iou_prev": _nullable(iou, first | (union == 0)),
        "intersection_prev": _nullable(intersection, first),
        "area": rows.area,
        "area_prev": _nullable(before, first),
        "matched_gt": rows.matched_gt,
        "best_gt": rows.best_gt,
        "best_gt_iou": rows.best_gt_iou,
        "matched_gt_iou": _nullable(rows.matched_gt_iou, rows.matched_gt < 0),
        "label": rows.label,
        "score": rows.score,
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column.flatten().numpy())
        for column in columns.values()
    ]
    return pa.table(arrays, names=list(columns)).cast(QUERIES)


def _nullable(values: torch.Tensor, null: torch.Tensor) -> pa.Array:
    return pa.array(values.flatten().numpy(), mask=null.flatten().numpy())


def targets_table(image: MeasuredImage, classes: Sequence[ClassInfo]) -> pa.Table:
    """One row for each GT of an image."""
    sample, numbers = image.sample, image.rows
    owner = query_of_gt(numbers.matched_gt.numpy(), len(sample.labels))
    boxes = _boxes(sample)
    rows = [
        {
            "image_id": sample.image_id,
            "gt": gt,
            "category_id": classes[label].category_id,
            "label": label,
            "area": int(numbers.gt_area[gt]),
            "bbox": boxes[gt],
            "matched_query": owner[:, gt].tolist(),
        }
        for gt, label in enumerate(sample.labels.tolist())
    ]
    return pa.Table.from_pylist(rows, schema=TARGETS)


def query_of_gt(matched_gt: np.ndarray, count: int) -> np.ndarray:
    """(L + 1, G) query that each GT matched in each layer, -1 for none, from (L + 1, N) V^i."""
    owner = np.full((len(matched_gt), count), -1)
    layer, query = np.nonzero(matched_gt >= 0)
    owner[layer, matched_gt[layer, query]] = query
    return owner


def _boxes(sample: Sample) -> list[list[float]]:
    """(x, y, width, height) of each mask in pixels of the original image."""
    height, width = sample.masks.shape[-2:]
    scale_y, scale_x = sample.original_size[0] / height, sample.original_size[1] / width
    boxes = []
    for mask in sample.masks:
        ys, xs = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        if not len(ys):
            boxes.append([0.0, 0.0, 0.0, 0.0])
            continue
        left, top = int(xs[0]), int(ys[0])
        wide, high = int(xs[-1]) - left + 1, int(ys[-1]) - top + 1
        boxes.append([left * scale_x, top * scale_y, wide * scale_x, high * scale_y])
    return boxes


def images_table(image: MeasuredImage) -> pa.Table:
    """The row of an image."""
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
    """One row for each detection of an image, if they were asked for."""
    found = image.detections
    if found is None:
        return DETECTIONS.empty_table()
    height, width = found.size
    columns = (found.queries.tolist(), found.labels.tolist(), found.scores.tolist(), found.counts)
    rows = [
        {
            "image_id": image.sample.image_id,
            "query": query,
            "label": label,
            "score": score,
            "height": height,
            "width": width,
            "counts": counts,
        }
        for query, label, score, counts in zip(*columns, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=DETECTIONS)
