"""Rows of measured images as the Arrow tables of a run directory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from mpdiag.analysis.segmenter import LayerAttention
from mpdiag.data import ClassInfo, Sample
from mpdiag.evaluation import Found
from mpdiag.matching import Matches
from mpdiag.metrics import ImageRows
from mpdiag.models import Sizes
from mpdiag.store.schema import DETECTIONS, IMAGES, QUERIES, TARGETS


@dataclass(frozen=True, slots=True)
class ImageAttention:
    """An image's part of a `LayerAttention`: weights and visible are (N, cells).

    `covered` are the rows and columns of the grid, not always whole, that show the image.
    """

    grid: tuple[int, int]
    covered: tuple[float, float]
    weights: torch.Tensor
    visible: torch.Tensor | None

    @classmethod
    def of(cls, layer: LayerAttention, index: int, sizes: Sizes) -> "ImageAttention":
        """Of image `index` of a batch."""
        rows, columns = (
            count * own / whole
            for count, own, whole in zip(layer.grid, sizes.image, sizes.padded, strict=True)
        )
        visible = None if layer.visible is None else layer.visible[index]
        return cls(layer.grid, (rows, columns), layer.weights[index], visible)


@dataclass(frozen=True, slots=True)
class MeasuredImage:
    """One image, its numbers, and the sample it was measured on (at the model's input size).

    `matches` has the costs of the pairs that `rows.matched_gt` names. `detections` are what each
    of some layers found at the size of the image file, by layer. `attention` is that of decoder
    layers 1..L, where it is to be kept.
    """

    sample: Sample
    rows: ImageRows
    matches: Matches
    detections: Mapping[int, Found]
    attention: Sequence[ImageAttention] = ()


def queries_table(image: MeasuredImage) -> pa.Table:
    """One row for each layer and query of an image; what is not finite has nulls for values."""
    rows, costs = image.rows, image.matches
    layers, queries = rows.area.shape
    first = torch.ones(layers, queries, dtype=torch.bool)
    first[1:] = False
    nothing = torch.zeros(1, queries, dtype=torch.int64)
    intersection = torch.cat([nothing, rows.intersection])
    before = torch.cat([nothing, rows.area[:-1]])
    union = before + rows.area - intersection
    iou = intersection.double() / union.clamp(min=1)
    broken = ~rows.finite
    unknown_before = first | torch.cat([broken[:1], broken[:-1]])
    no_pair = unknown_before | broken
    unmatched = rows.matched_gt < 0
    fed = torch.full_like(iou, torch.nan) if rows.fed_gt_iou is None else rows.fed_gt_iou
    layer, query = torch.meshgrid(torch.arange(layers), torch.arange(queries), indexing="ij")
    columns = {
        "image_id": torch.full((layers, queries), image.sample.image_id),
        "layer": layer,
        "query": query,
        "iou_prev": _nullable(iou, no_pair | (union == 0)),
        "intersection_prev": _nullable(intersection, no_pair),
        "area": _nullable(rows.area, broken),
        "area_prev": _nullable(before, unknown_before),
        "matched_gt": rows.matched_gt,
        "best_gt": rows.best_gt,
        "best_gt_iou": _nullable(rows.best_gt_iou, broken),
        "matched_gt_iou": _nullable(rows.matched_gt_iou, unmatched),
        "label": _nullable(rows.label, broken),
        "score": _nullable(rows.score, broken),
        "second_coverage": _nullable(rows.second_coverage, broken),
        "class_cost": _nullable(costs.class_cost, unmatched),
        "mask_cost": _nullable(costs.mask_cost, unmatched),
        "dice_cost": _nullable(costs.dice_cost, unmatched),
        "margin": _nullable(costs.margin, costs.margin.isnan()),
        "fed_gt_iou": _nullable(fed, broken | fed.isnan()),
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
    """One row for each GT of an image."""
    sample, numbers = image.sample, image.rows
    owner = query_of_gt(numbers.matched_gt.numpy(), len(sample.labels))
    boxes = _boxes(sample)
    height, width = sample.masks.shape[-2:]
    scale = sample.original_size[0] * sample.original_size[1] / (height * width)
    pixels = sample.masks.flatten(1).sum(1) * scale
    rows = [
        {
            "image_id": sample.image_id,
            "gt": gt,
            "category_id": classes[label].category_id,
            "label": label,
            "area": int(numbers.gt_area[gt]),
            "bbox": boxes[gt],
            "matched_query": owner[:, gt].tolist(),
            "pixels": float(pixels[gt]),
            "covered": float(numbers.gt_covered[gt]),
            "best_query": numbers.best_query[:, gt].tolist(),
            "best_query_iou": numbers.best_query_iou[:, gt].tolist(),
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
    """One row for each detection of an image, in the layers that were asked for."""
    rows = [
        {
            "image_id": image.sample.image_id,
            "layer": layer,
            "query": query,
            "label": label,
            "score": score,
            "height": found.size[0],
            "width": found.size[1],
            "counts": counts,
        }
        for layer, found in image.detections.items()
        for query, label, score, counts in zip(
            found.queries.tolist(),
            found.labels.tolist(),
            found.scores.tolist(),
            found.counts,
            strict=True,
        )
    ]
    return pa.Table.from_pylist(rows, schema=DETECTIONS)
