"""A data set: images on disk, and the segments that its annotations tell of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpdiag.choices import Task
from mpdiag.data.annotations import Annotations
from mpdiag.data.files import choose_root
from mpdiag.data.image_files import read_rgb
from mpdiag.data.problems import DataProblem, ProblemHandler, raise_problem
from mpdiag.data.sample import GroundTruth, Sample


class SegmentationDataset:
    """Samples of one split; what an image shows is asked of the annotations when it is read.

    annotations      the annotations
    image_root  folder of the images; of several, the one that holds most of them is taken
    task        what a model is to find: "instance", "panoptic" or "semantic"
    name        how run directories and messages call it

    Labels are contiguous: positions in `classes`.

    Raises DataError: here for missing images; when an image or its annotation is read, where it
    can't be decoded or the two differ in size.
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
        self.image_root = choose_root(annotations.path, names, roots, on_problem)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Sample:
        """The image with its segments, crowds and those without a pixel left out."""
        return self.sample(index, self.image(index), self.ground_truth(index))

    def num_objects(self, index: int) -> int:
        """How many segments the image is annotated with, crowds left out, without reading it.

        Where the annotations are PNGs that would have to be read for it, 1.
        """
        return self.annotations.num_objects(index)

    def file_name(self, index: int) -> str:
        """The image's file, relative to `image_root`."""
        return self.annotations.images[index].file_name

    def image(self, index: int) -> Tensor:
        """uint8 (3, H, W), RGB."""
        pixels = read_rgb(self.image_root / self.file_name(index))
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def ground_truth(self, index: int) -> GroundTruth:
        """All that the image is annotated with, at the size of its file."""
        return self.annotations.read(index)

    def sample(self, index: int, image: Tensor, truth: GroundTruth) -> Sample:
        """What a model is shown of an image and its annotation. DataProblem where they differ in size.

        Crowds and segments without a pixel are left out.
        """
        (height, width), annotated = image.shape[1:], truth.masks.shape[1:]
        if (height, width) != annotated:
            raise DataProblem(
                "image of another size",
                f"image {self.image_root / self.file_name(index)} is {height} x {width} (height x"
                f" width) but {self.annotations.path} has it as {annotated[0]} x {annotated[1]}: they"
                " don't belong together",
            )
        kept = truth.is_target
        return Sample(
            image_id=self.image_ids[index],
            file_name=self.file_name(index),
            image=image,
            masks=truth.masks[kept],
            labels=truth.labels[kept],
            original_size=(height, width),
        )

    def describe(self) -> dict[str, Any]:
        """What a run directory notes of the data set; absolute paths."""
        return {
            "name": self.name,
            "annotation_file": str(self.annotations.path.resolve()),
            "image_root": str(self.image_root.resolve()),
            "split": self.split,
            "task": self.task,
        }
