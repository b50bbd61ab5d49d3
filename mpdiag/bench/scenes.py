"""Synthetic scenes of any size, drawn into memory, so that no pass waits for a disk."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mpdiag.data import ClassInfo, SegmentationDataset, Truth
from mpdiag.data.scenes import draw_scene
from mpdiag.data.source import ImageRecord


class Scenes(SegmentationDataset):
    """Instances; image i is that of seed i, the upper left part of a square scene."""

    def __init__(self, count: int, size: tuple[int, int], classes: int) -> None:
        """Scenes of `size` (height, width) pixels, labelled as if there were that many classes."""
        self.size = size
        source = _Drawn(count, size, classes)
        self.source, self.classes, self._images = source, source.classes, source.pictures
        self.task, self.name, self.split = "instance", "scenes", ""
        self.image_ids = [image.image_id for image in source.images]
        self.image_root = source.path

    def image(self, index: int) -> Tensor:
        return self._images[index]


class _Drawn:
    """Scenes as a source of annotations."""

    path = Path("scenes")

    def __init__(self, count: int, size: tuple[int, int], classes: int) -> None:
        self.images = [ImageRecord(index + 1, f"{index + 1}.png") for index in range(count)]
        self.classes = [ClassInfo(index + 1, f"class {index + 1}") for index in range(classes)]
        self.pictures: list[Tensor] = []
        self._truths: list[Truth] = []
        height, width = size
        for index in range(count):
            scene = draw_scene(np.random.default_rng(index), max(size))
            image = np.ascontiguousarray(scene.image[:height, :width].transpose(2, 0, 1))
            self.pictures.append(torch.from_numpy(image))
            segments = torch.from_numpy(scene.segments[:height, :width].copy())
            masks = segments == torch.arange(len(scene.labels))[:, None, None]
            seen = masks.flatten(1).any(1)
            labels = torch.tensor(scene.labels)[seen] % classes
            masks = masks[seen]
            crowd = torch.zeros(len(masks), dtype=torch.bool)
            self._truths.append(Truth(masks, labels, crowd, masks.flatten(1).sum(1).double()))

    def num_objects(self, index: int) -> int:
        return len(self._truths[index].labels)

    def read(self, index: int) -> Truth:
        return self._truths[index]
