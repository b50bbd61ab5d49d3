"""Ground truth of a batch, read from the inputs of a model in the conventions of the libraries."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

from mpdiag.errors import DataError
from mpdiag.integrations.valid_targets import valid_targets
from mpdiag.matching import Target

Size = tuple[int, int]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PredictionShape:
    """Shape of the predictions of a pass.

    Attributes:
        images: B.
        num_classes: K.
        grid: (h, w) of the mask logits.
        stride: pixels per cell of the grid, for models that pad a list of images themselves.
    """

    images: int
    num_classes: int
    grid: Size
    stride: int

    @property
    def padded(self) -> Size:
        """(height, width) in pixels that the grid covers."""
        return self.grid[0] * self.stride, self.grid[1] * self.stride


@dataclass(frozen=True, slots=True)
class Batch:
    """The images of a batch as the metrics need them.

    Attributes:
        padded: (height, width) of the batch in pixels, which the mask grid covers.
        images: (height, width) of each image without padding.
        targets: GT of each image over the padded area; None if the inputs hold none.
        pixels: (B, C, H, W) as the model takes them, normalized or not; None if unknown.
    """

    padded: Size
    images: Sequence[Size]
    targets: Sequence[Target] | None
    pixels: Tensor | Sequence[Tensor] | None

    def valid_cells(self, image: int, grid: Size) -> Size:
        """Return the rows and columns of the mask grid that an image covers."""
        rows, columns = (
            -(-own * count // whole)
            for own, count, whole in zip(self.images[image], grid, self.padded, strict=True)
        )
        return rows, columns


def read_batch(inputs: Mapping[str, Any], targets: Any, shape: PredictionShape) -> Batch:
    """Read images and GT of a pass.

    Args:
        inputs: arguments of the model by name.
        targets: GT if `inputs` hold none: anything that `find_targets` reads. GT with the label K
            are padding and left out.
        shape: that of the predictions.

    Raises:
        DataError: the GT is that of another number of images, the GT of an image is not valid or of
            another size than the image, or an image does not fit in the mask grid.
    """
    pixels, images, padded = _images(inputs, shape)
    found = find_targets(inputs if targets is None else targets)
    if found is None and targets is not None:
        raise DataError(
            f"targets of type {type(targets).__name__}: hold no GT that the monitor can read; give "
            "a list with a dictionary of `labels` (G,) and `masks` (G, H, W) for each image"
        )
    if found is None:
        return Batch(padded, images or [padded] * shape.images, None, pixels)
    if len(found) != shape.images:
        raise DataError(
            f"the GT is that of {len(found)} images, but the model predicted {shape.images}; give "
            "the targets of the last forward pass"
        )
    valid = valid_targets(found, shape.num_classes)
    images = images or _sizes_of_gt(valid, padded)
    fitted = [_fit(target, images[index], padded, index) for index, target in enumerate(valid)]
    return Batch(padded, images, fitted, pixels)


def find_targets(given: Any) -> list[Target] | None:
    """Return the GT in arguments or in a batch; None if there is none.

    It reads `mask_labels` and `class_labels` (transformers), a list of dictionaries with `labels`
    or `class_labels` and `masks` (DETR, RF-DETR, EoMT, torchvision), a list of dictionaries with
    `instances` (detectron2), and a list of data samples with `gt_instances` (mmdetection), also
    inside a dictionary or a tuple.
    """
    if isinstance(given, Mapping):
        if given.get("mask_labels") is not None and given.get("class_labels") is not None:
            pairs = zip(given["class_labels"], given["mask_labels"], strict=True)
            return [_target(labels, masks) for labels, masks in pairs]
        return next(filter(None, map(find_targets, given.values())), None)
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        return None
    if all(hasattr(one, "gt_instances") for one in given):
        return [_from_data_sample(one) for one in given]
    if not all(isinstance(one, Mapping) for one in given):
        return next(filter(None, map(find_targets, given)), None)
    if all("instances" in one for one in given):
        return [_from_instances(one["instances"]) for one in given]
    if all("masks" in one and ("labels" in one or "class_labels" in one) for one in given):
        names = ["labels" if "labels" in one else "class_labels" for one in given]
        return [_target(one[name], one["masks"]) for name, one in zip(names, given, strict=True)]
    return None


def _target(labels: Any, masks: Any) -> Target:
    if isinstance(masks, (list, tuple)) and masks:
        masks = torch.stack([torch.as_tensor(mask) for mask in masks])
    masks = torch.as_tensor(masks)
    if not masks.numel() and masks.ndim < 3:
        masks = masks.reshape(0, 1, 1)  # an image without objects
    is_set = masks.bool()
    if masks.is_floating_point():
        # Processors of transformers pad masks with `ignore_index`, such as 255.
        is_set = (masks > 0.5) & (masks <= 1)
        if masks.numel() and masks.max() > 1 and not is_set.any():
            _LOG.warning(
                "the masks of an image are all empty, because they contain %g and no 1; give masks "
                "of 0 and 1, or bool",
                masks.max().item(),
            )
    return Target(labels=torch.as_tensor(labels).long(), masks=is_set)


def _from_instances(instances: Any) -> Target:
    """Convert detectron2's `Instances`; their masks are BitMasks, PolygonMasks or a tensor."""
    labels, (height, width) = instances.gt_classes.long(), instances.image_size
    if not instances.has("gt_masks"):
        return Target(labels=labels[:0], masks=torch.zeros(0, height, width, dtype=torch.bool))
    masks = instances.gt_masks
    if hasattr(masks, "polygons"):
        drawn = [_draw(polygons, height, width) for polygons in masks.polygons]
        empty = np.zeros((0, height, width), dtype=np.bool_)
        return Target(labels=labels, masks=torch.from_numpy(np.stack(drawn) if drawn else empty))
    return _target(labels, masks if isinstance(masks, Tensor) else masks.tensor)


def _from_data_sample(sample: Any) -> Target:
    """Convert mmdetection's `DetDataSample`; its masks cover the padded batch, or the image."""
    instances, (height, width) = sample.gt_instances, sample.img_shape
    labels = instances.labels.long()
    masks = instances.masks.to_tensor(torch.bool, labels.device)
    return Target(labels=labels, masks=masks[:, :height, :width])


def _draw(polygons: Sequence[Any], height: int, width: int) -> Any:
    encoded = coco_mask.frPyObjects([list(one) for one in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(encoded)).astype(np.bool_)


def _size(target: Target) -> Size:
    return target["masks"].shape[-2], target["masks"].shape[-1]


def _fits(size: Size, outer: Size) -> bool:
    return size[0] <= outer[0] and size[1] <= outer[1]


def _has_aspect(size: Size, padded: Size) -> bool:
    """Return whether a size has the aspect ratio of another, up to a pixel of rounding."""
    return abs(size[0] * padded[1] - size[1] * padded[0]) <= max(padded)


def _sizes_of_gt(targets: Sequence[Target], padded: Size) -> list[Size]:
    """Return the sizes of images where only the GT say what is padding.

    Masks that are all of one size, with the aspect ratio of the batch and at most half as large,
    have a lower resolution instead.
    """
    sizes = [_size(target) if len(target["masks"]) else padded for target in targets]
    found = {_size(target) for target in targets if len(target["masks"])}
    half = padded[0] // 2, padded[1] // 2
    if len(found) == 1 and all(_fits(one, half) and _has_aspect(one, padded) for one in found):
        return [padded] * len(targets)
    return [size if _fits(size, padded) else padded for size in sizes]


def _fit(target: Target, image: Size, padded: Size, index: int) -> Target:
    """Return the GT over the padded area; at any resolution if the image has no padding."""
    masks, size = target["masks"], _size(target)
    if not len(masks):
        return Target(labels=target["labels"], masks=masks.new_zeros(0, *padded))
    if _fits(image, size) and _fits(size, padded):
        masks = F.pad(masks, (0, padded[1] - size[1], 0, padded[0] - size[0]))
        return Target(labels=target["labels"], masks=masks)
    if image == padded and _has_aspect(size, padded):
        return target
    raise DataError(
        f"image {index} of the batch: masks of {size[0]} x {size[1]} pixels, but the model "
        f"received {image[0]} x {image[1]}, padded to {padded[0]} x {padded[1]}; give masks of one "
        "of these sizes"
    )


def _images(
    inputs: Mapping[str, Any], shape: PredictionShape
) -> tuple[Tensor | Sequence[Tensor] | None, list[Size] | None, Size]:
    """Return the pixels of a batch, the size of each image if known, and the padded size."""
    for value in inputs.values():
        outside = None
        if hasattr(value, "tensors") and hasattr(value, "mask"):  # NestedTensor of DETR
            value, outside = value.tensors, value.mask
        if isinstance(value, Tensor) and value.ndim == 4 and len(value) == shape.images:
            padded = (value.shape[-2], value.shape[-1])
            inside = ~outside.bool() if outside is not None else inputs.get("pixel_mask")
            sizes = None if inside is None else _covered(inside)
            return value, sizes, padded
        images = _image_list(value)
        if images is not None:
            sizes = [(one.shape[-2], one.shape[-1]) for one in images]
            _require_fit(sizes, shape)
            return images, sizes, shape.padded
    return None, None, shape.padded


def _require_fit(images: Sequence[Size], shape: PredictionShape) -> None:
    """Raise DataError if the mask grid does not cover an image."""
    padded = shape.padded
    for index, (height, width) in enumerate(images):
        if height > padded[0] or width > padded[1]:
            raise DataError(
                f"image {index} of the batch: {height} x {width} pixels, but the mask grid covers "
                f"{padded[0]} x {padded[1]} at stride {shape.stride}; declare the stride of the "
                "model: HookPoint(stride=...) for mask_logits, or Family.mask_stride"
            )


def _image_list(value: Any) -> list[Tensor] | None:
    """Return the images of a list of tensors, or of detectron2's dictionaries."""
    if not isinstance(value, (list, tuple)) or not value:
        return None
    images = [one.get("image") if isinstance(one, Mapping) else one for one in value]
    tensors = [one for one in images if isinstance(one, Tensor) and one.ndim == 3]
    return tensors if len(tensors) == len(images) else None


def _covered(inside: Tensor) -> list[Size]:
    """Return (rows, columns) that each (H, W) mask of the image's pixels covers."""
    rows, columns = inside.any(2).sum(1), inside.any(1).sum(1)
    return [(int(a), int(b)) for a, b in torch.stack([rows, columns], 1).tolist()]
