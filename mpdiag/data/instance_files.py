"""Annotations with a file, or a folder of files, per image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mpdiag.data.annotations import ImageRecord
from mpdiag.data.sample import ClassInfo, GroundTruth
from mpdiag.errors import DataError

ONE_CLASS = [ClassInfo(1, "object")]
"""Classes of data sets whose annotations name none."""

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "bmp", "tif", "tiff", "webp"),
        *("gif", "ppm", "pgm", "pbm", "jp2"),
    )
)
"""Suffixes of the formats that mpdiag reads."""

ReadInstances = Callable[[Path, Path], GroundTruth]
"""Return the instances of an image, from the path of the image and that of its annotation."""


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image and its annotation, relative to the folder of the split."""

    image: str
    annotation: str


class InstanceFiles:
    """Annotations (see `Annotations`) with a file or folder per image; image ids count from 1.

    Args:
        folder: folder of the split.
        images: images and their annotations.
        classes: classes in the order of their labels.
        read: reads the annotation of an image.

    Raises:
        DataError: there are no images.
    """

    def __init__(
        self,
        folder: Path,
        images: Sequence[AnnotatedImage],
        classes: list[ClassInfo],
        read: ReadInstances,
    ) -> None:
        if not images:
            raise DataError(f"{folder}: has no annotated images; choose another folder or split")
        self.path = folder
        self.images = [ImageRecord(number, item.image) for number, item in enumerate(images, 1)]
        self.classes = classes
        self._files = list(images)
        self._read = read

    def num_objects(self, index: int) -> int:
        """Return 1: only the annotation shows how many instances an image has."""
        return 1

    def mask_shape(self, index: int) -> None:
        return None

    def read(self, index: int) -> GroundTruth:
        """Return the instances of an image in the order of its annotation."""
        item = self._files[index]
        return self._read(self.path / item.image, self.path / item.annotation)


def is_image(path: Path) -> bool:
    """Return whether the suffix of a file is that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def instances(masks: npt.NDArray[np.bool_], labels: Sequence[int]) -> GroundTruth:
    """Return G instances of (G, H, W) masks; none is a crowd."""
    pixels = torch.from_numpy(masks)
    return GroundTruth(
        masks=pixels,
        labels=torch.tensor(labels, dtype=torch.int64),
        crowd=torch.zeros(len(masks), dtype=torch.bool),
        areas=pixels.sum((1, 2)).double(),
    )
