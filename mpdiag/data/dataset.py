"""A data set: images on disk, and the segments that its annotations tell of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpdiag.data.files import choose_root
from mpdiag.data.pictures import read_rgb
from mpdiag.data.problems import Problem, Report, refuse
from mpdiag.data.sample import Sample, Truth
from mpdiag.data.source import AnnotationSource, Task


class SegmentationDataset:
    """Samples of one split; what an image shows is asked of the annotations when it is read.

    source      the annotations
    image_root  folder of the images; of several, the one that holds most of them is taken
    task        what a model is to find: "instance", "panoptic" or "semantic"
    name        how run directories and messages call it

    Labels are contiguous: positions in `classes`.

    Raises DataError: here for missing images; when an image or its annotation is read, where it
    can't be decoded or the two differ in size.
    """

    def __init__(
        self,
        source: AnnotationSource,
        image_root: Path | Sequence[Path],
        *,
        task: Task,
        name: str,
        split: str = "",
        report: Report = refuse,
    ) -> None:
        self.source = source
        self.task = task
        self.name = name
        self.split = split
        self.classes = source.classes
        self.image_ids = [image.image_id for image in source.images]
        roots = [image_root] if isinstance(image_root, Path) else image_root
        names = [image.file_name for image in source.images]
        self.image_root = choose_root(source.path, names, roots, report)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Sample:
        """The image with its segments, crowds and those without a pixel left out."""
        return self.sample(index, self.image(index), self.truth(index))

    def num_objects(self, index: int) -> int:
        """How many segments the image is annotated with, crowds left out, without reading it.

        Where the annotations are PNGs that would have to be read for it, 1.
        """
        return self.source.num_objects(index)

    def file_name(self, index: int) -> str:
        """The image's file, relative to `image_root`."""
        return self.source.images[index].file_name

    def image(self, index: int) -> Tensor:
        """uint8 (3, H, W), RGB."""
        pixels = read_rgb(self.image_root / self.file_name(index))
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def truth(self, index: int) -> Truth:
        """All that the image is annotated with, at the size of its file."""
        return self.source.read(index)

    def sample(self, index: int, image: Tensor, truth: Truth) -> Sample:
        """What a model is shown of an image and its annotation. Problem where they differ in size.

        Crowds and segments without a pixel are left out.
        """
        (height, width), annotated = image.shape[1:], truth.masks.shape[1:]
        if (height, width) != annotated:
            raise Problem(
                "image of another size",
                f"image {self.image_root / self.file_name(index)} is {height} x {width} (height x"
                f" width) but {self.source.path} has it as {annotated[0]} x {annotated[1]}: they"
                " don't belong together",
            )
        kept = truth.shown
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
            "annotation_file": str(self.source.path.resolve()),
            "image_root": str(self.image_root.resolve()),
            "split": self.split,
            "task": self.task,
        }
