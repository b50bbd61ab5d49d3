"""What a data set gives: an image with its segments as a model is shown it, and the whole truth."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One category: its id in the annotation file, its name, and whether it is countable."""

    category_id: int
    name: str
    isthing: bool = True


@dataclass(slots=True)
class Sample:
    """One image and its ground-truth segments; image and masks share height and width.

    image          uint8 (3, H, W), RGB
    masks          bool (G, H, W), one for each segment
    labels         int64 (G,), contiguous class index: position in the data set's `classes`
    original_size  (height, width) of the image file, which no transform changes
    """

    image_id: int
    file_name: str
    image: Tensor
    masks: Tensor
    labels: Tensor
    original_size: tuple[int, int]


@dataclass(slots=True)
class GroundTruth:
    """All that an image is annotated with, crowds and segments without a pixel too.

    masks   bool (G, H, W) at the size of the image file
    labels  int64 (G,), contiguous class index
    crowd   bool (G,), which of them stand for a group of objects
    areas   float64 (G,) pixels: the annotation's own "area" where there is one, else the mask's
    """

    masks: Tensor
    labels: Tensor
    crowd: Tensor
    areas: Tensor

    @property
    def is_target(self) -> Tensor:
        """Bool (G,): which a model is shown, that is no crowds and none without a pixel."""
        return ~self.crowd & self.masks.flatten(1).any(1)
