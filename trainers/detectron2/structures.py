"""Conversion between detectron2's data structures and mpdiag's.

Ground truth: `Instances` with `gt_classes` and `gt_masks`. Predictions: `Instances` with `scores`,
`pred_classes`, `pred_masks` and `pred_boxes`. Panoptic output: ids (H, W) and a list of segments.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2 import structures
from detectron2.structures.masks import polygons_to_bitmask
from torch import Tensor

from mpdiag.data import Sample
from mpdiag.errors import DataError
from mpdiag.models import Instances, PanopticSegments

Input = Mapping[str, Any]


def sample_of(given: Input) -> Sample:
    """Convert one entry of a training batch to a sample.

    Args:
        given: `image` (3, H, W), RGB, and `instances` whose `gt_masks` are BitMasks, PolygonMasks
            or a (G, H, W) tensor.

    Raises:
        DataError: the entry has no masks.
    """
    image, truth = given["image"], given.get("instances")
    name = str(given.get("file_name", "an image"))
    if truth is None or not truth.has("gt_classes"):
        raise DataError(
            f"{name}: the loader gives no `instances` with gt_classes and gt_masks; choose another "
            "mapper"
        )
    height, width = image.shape[-2:]
    return Sample(
        image_id=0,
        file_name=name,
        image=image,
        masks=_masks(truth, height, width),
        labels=truth.gt_classes.long(),
        original_size=(int(given.get("height", height)), int(given.get("width", width))),
    )


def instances_from_sample(sample: Sample) -> Any:
    """Return the ground truth of a sample as `Instances`."""
    truth = structures.Instances(tuple(sample.image.shape[-2:]))
    truth.gt_classes = sample.labels
    masks = structures.BitMasks(sample.masks)
    truth.gt_masks, truth.gt_boxes = masks, masks.get_bounding_boxes()
    return truth


def to_detectron2(found: Instances) -> Any:
    """Convert detections to `Instances`, with the boxes of their masks."""
    masks = found.masks
    result = structures.Instances(tuple(masks.shape[-2:]))
    result.pred_masks = masks
    result.pred_boxes = structures.BitMasks(masks).get_bounding_boxes()
    result.scores, result.pred_classes = found.scores, found.labels
    return result


def panoptic_to_detectron2(
    found: PanopticSegments, things: Sequence[bool]
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Convert segments to a panoptic output; `things` marks the countable classes."""
    segments = [
        {"id": number, "category_id": label, "isthing": things[label]}
        for number, label in enumerate(found.labels.tolist(), start=1)
    ]
    return found.ids, segments


def _masks(truth: Any, height: int, width: int) -> Tensor:
    """Return bool (G, height, width) masks; `Instances` without objects may have no masks."""
    if not truth.has("gt_masks"):
        if len(truth.gt_classes):
            raise DataError(
                "the loader gives gt_classes without gt_masks; set MODEL.MASK_ON, or choose "
                "another mapper"
            )
        return torch.zeros(0, height, width, dtype=torch.bool, device=truth.gt_classes.device)
    return _bitmasks(truth.gt_masks, height, width)


def _bitmasks(masks: Any, height: int, width: int) -> Tensor:
    """Convert any of detectron2's mask types to bool (G, height, width)."""
    if isinstance(masks, structures.PolygonMasks):
        drawn = [polygons_to_bitmask(polygons, height, width) for polygons in masks.polygons]
        stacked = np.stack(drawn) if drawn else np.zeros((0, height, width), dtype=np.bool_)
        return torch.from_numpy(stacked.astype(np.bool_))
    tensor: Tensor = masks.tensor if isinstance(masks, structures.BitMasks) else masks
    return tensor.bool()
