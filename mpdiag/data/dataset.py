"""A segmentation data set: images on disk with their annotations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpdiag.choices import Task
from mpdiag.data.annotations import Annotations
from mpdiag.data.files import find_files
from mpdiag.data.image_files import read_rgb, read_size
from mpdiag.data.problems import DataProblem, ProblemHandler, raise_problem
from mpdiag.data.sample import GroundTruth, Sample
from mpdiag.data.segmentation import MAX_MASK_PIXELS, require_mask_memory

# Limit if the image cannot be read, so that nothing confirms the size in the annotation list.
_MAX_UNCONFIRMED_PIXELS = 1 << 28


class SegmentationDataset:
    """Samples of one split; images and annotations are read on access.

    Labels are contiguous: positions in `classes`.

    Args:
        annotations: annotations of the split.
        image_root: image folder, or candidates that together have the images.
        task: "instance", "panoptic" or "semantic".
        name: name in run directories and messages.
        split: name of the split.
        on_problem: called with each problem; by default the first one is raised.

    Raises:
        DataError: images are missing, or the name of one is not UTF-8. When a sample is read: a
            file cannot be decoded, or image and annotation differ in size.
    """

    def __init__(
        self,
        annotations: Annotations,
        image_root: Path | Sequence[Path],
        *,
        task: Task,
        name: str,
        split: str = "",
        on_problem: ProblemHandler = raise_problem,
    ) -> None:
        self.annotations = annotations
        self.task = task
        self.name = name
        self.split = split
        self.classes = annotations.classes
        self.image_ids = [image.image_id for image in annotations.images]
        roots = [image_root] if isinstance(image_root, Path) else image_root
        names = [image.file_name for image in annotations.images]
        self.image_root, self._file_names = find_files(annotations.path, names, roots, on_problem)
        _require_utf8(self.image_root, self._file_names, on_problem)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Sample:
        """Return the image with its target segments."""
        return self.sample(index, self.image(index), self.ground_truth(index))

    def num_objects(self, index: int) -> int:
        """Return the number of segments of an image without crowds; 1 if only its map shows it."""
        return self.annotations.num_objects(index)

    def file_name(self, index: int) -> str:
        """Return the image file, relative to `image_root`."""
        return self._file_names[index]

    def image(self, index: int) -> Tensor:
        """Return the image, uint8 (3, H, W), RGB."""
        pixels = read_rgb(self.image_root / self.file_name(index))
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def ground_truth(self, index: int) -> GroundTruth:
        """Return all segments of an image, at the size of the image file.

        The listed size is compared with the header of the image before masks are decoded.

        Raises:
            DataProblem: the annotation cannot be read, has another size, or has too many masks.
        """
        shape = self.annotations.mask_shape(index)
        if shape is not None:
            path = self.image_root / self.file_name(index)
            try:
                height, width = read_size(path)
            except DataProblem:
                require_mask_memory(shape, path, _MAX_UNCONFIRMED_PIXELS)
            else:
                if {height, width} != set(shape[1:]):  # EXIF may rotate the image
                    require_same_size(path, (height, width), self.annotations.path, shape[1:])
                require_mask_memory(shape, path, MAX_MASK_PIXELS)
        return self.annotations.read(index)

    def sample(self, index: int, image: Tensor, ground_truth: GroundTruth) -> Sample:
        """Combine an image and its ground truth, without crowds and empty segments.

        Raises:
            DataProblem: they differ in size.
        """
        self.require_same_size(index, image, ground_truth)
        kept = ground_truth.is_target
        return Sample(
            image_id=self.image_ids[index],
            file_name=self.file_name(index),
            image=image,
            masks=ground_truth.masks[kept],
            labels=ground_truth.labels[kept],
            original_size=(image.shape[1], image.shape[2]),
        )

    def require_same_size(self, index: int, image: Tensor, ground_truth: GroundTruth) -> None:
        """Check that the masks of an image have its size.

        Raises:
            DataProblem: they differ in size.
        """
        require_same_size(
            self.image_root / self.file_name(index),
            image.shape[1:],
            self.annotations.path,
            ground_truth.masks.shape[1:],
        )

    def describe(self) -> dict[str, Any]:
        """Return what a run directory stores about the data set; paths are absolute."""
        return {
            "name": self.name,
            "annotation_file": str(self.annotations.path.resolve()),
            "image_root": str(self.image_root.resolve()),
            "split": self.split,
            "task": self.task,
        }


def require_same_size(
    image: Path, size: Sequence[int], annotations: object, listed: Sequence[int]
) -> None:
    """Check that annotations have the (height, width) of their image.

    Raises:
        DataProblem: they differ in size.
    """
    if tuple(size) != tuple(listed):
        raise DataProblem(
            "image of another size",
            f"{image}: is {size[0]} x {size[1]} (height x width), but {annotations} lists it as "
            f"{listed[0]} x {listed[1]}; use files of the same release, and the image folder of "
            "this split",
        )


def _require_utf8(folder: Path, names: Sequence[str], on_problem: ProblemHandler) -> None:
    """Report names of listed files that are not UTF-8, which a run cannot store."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            path = folder / name
            on_problem(DataProblem("invalid file name", f"{path}: is not UTF-8; rename the file"))
