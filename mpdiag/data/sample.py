"""The unit that passes from a reader to a model: one image with its ground truth."""

from dataclasses import dataclass
from typing import Any, Protocol

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


class SegmentationDataset(Protocol):
    """What every reader offers; samples come as they are on disk, untransformed."""

    @property
    def classes(self) -> list[ClassInfo]: ...

    @property
    def image_ids(self) -> list[int]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def num_objects(self, index: int) -> int:
        """How many segments the image is annotated with, without reading the image."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a run directory notes: name, annotation_file, image_root, split, task."""
        ...
