"""Data classes of a data set: classes, training samples and ground truth."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mpdiag.ops import to_device


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One category: its id in the annotation file, its name, and whether it is a thing class."""

    category_id: int
    name: str
    isthing: bool = True


@dataclass(slots=True)
class Sample:
    """One image with its target segments; crowds and empty segments are removed.

    Attributes:
        image_id: id of the image in the data set.
        file_name: image file, relative to the image folder.
        image: uint8 (3, H, W), RGB.
        masks: bool (G, H, W), one per segment.
        labels: int64 (G,), contiguous class index (position in the data set's `classes`).
        original_size: (height, width) of the image file; transforms do not change it.
    """

    image_id: int
    file_name: str
    image: Tensor
    masks: Tensor
    labels: Tensor
    original_size: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.image.shape[-2], self.image.shape[-1]

    def to(self, device: torch.device | str) -> "Sample":
        """Copy the tensors to a device. A copy to a GPU does not wait for the GPU."""
        image, masks, labels = (
            to_device(tensor, device) for tensor in (self.image, self.masks, self.labels)
        )
        return replace(self, image=image, masks=masks, labels=labels)


@dataclass(slots=True)
class GroundTruth:
    """All annotated segments of an image, crowds and empty segments included.

    Attributes:
        masks: bool (G, H, W) at the size of the image file.
        labels: int64 (G,), contiguous class index.
        crowd: bool (G,), True for a group of objects.
        areas: float64 (G,) in pixels: "area" of the annotation if present, else that of the mask.
    """

    masks: Tensor
    labels: Tensor
    crowd: Tensor
    areas: Tensor

    @property
    def is_target(self) -> Tensor:
        """Bool (G,): segments that a model is trained on, without crowds and empty segments."""
        return ~self.crowd & self.masks.flatten(1).any(1)
