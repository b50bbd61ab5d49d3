"""Synthetic scenes of any size in memory, so that benchmarks do not read files."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mpdiag.data import ClassInfo, GroundTruth, Sample, SegmentationDataset
from mpdiag.data.annotations import ImageRecord
from mpdiag.data.scenes import draw_scene

OBJECTS = 7  # mean number of objects per image of COCO


def random_samples(count: int, size: tuple[int, int], classes: int) -> list[Sample]:
    """Return training samples of noise with `OBJECTS` rectangles each; always the same."""
    generator = torch.Generator().manual_seed(0)
    height, width = size

    def sample(number: int) -> Sample:
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        masks = torch.zeros(OBJECTS, *size, dtype=torch.bool)
        for mask in masks:
            y, x = torch.rand(2, generator=generator).tolist()
            top, left = int(y * height * 0.75), int(x * width * 0.75)
            mask[top : top + height // 4, left : left + width // 4] = True
        labels = torch.randint(0, classes, (OBJECTS,), generator=generator)
        return Sample(number, f"{number}.png", image, masks, labels, size)

    return [sample(number) for number in range(count)]


class SyntheticScenes(SegmentationDataset):
    """Instance segmentation data set in memory; image i is drawn with seed i."""

    def __init__(
        self, count: int, size: tuple[int, int], classes: int, *, keep: bool = True
    ) -> None:
        """Create `count` scenes of `size` (height, width) pixels.

        Args:
            count: number of images.
            size: height and width; a scene is the upper left part of a square one.
            classes: number of classes.
            keep: keep drawn scenes in memory; otherwise draw them at each access.
        """
        self.size = size
        self._scenes = _SceneAnnotations(count, size, classes, keep)
        self.annotations, self.classes = self._scenes, self._scenes.classes
        self.task, self.name, self.split = "instance", "scenes", ""
        self.image_ids = [image.image_id for image in self._scenes.images]
        self.image_root = self._scenes.path

    def file_name(self, index: int) -> str:
        return self._scenes.images[index].file_name

    def image(self, index: int) -> Tensor:
        return self._scenes.scene(index)[0]


class _SceneAnnotations:
    """Annotations of the scenes."""

    path = Path("scenes")

    def __init__(self, count: int, size: tuple[int, int], classes: int, keep: bool) -> None:
        self.images = [ImageRecord(index + 1, f"{index + 1}.png") for index in range(count)]
        self.classes = [ClassInfo(index + 1, f"class {index + 1}") for index in range(classes)]
        self._size = size
        self.scene = lru_cache(maxsize=None if keep else 1)(self._draw)

    def _draw(self, index: int) -> tuple[Tensor, GroundTruth]:
        height, width = self._size
        scene = draw_scene(np.random.default_rng(index), max(self._size))
        image = np.ascontiguousarray(scene.image[:height, :width].transpose(2, 0, 1))
        segments = torch.from_numpy(scene.segments[:height, :width].copy())
        masks = segments == torch.arange(len(scene.labels))[:, None, None]
        seen = masks.flatten(1).any(1)
        masks, labels = masks[seen], torch.tensor(scene.labels)[seen] % len(self.classes)
        crowd = torch.zeros(len(masks), dtype=torch.bool)
        areas = masks.flatten(1).sum(1).double()
        return torch.from_numpy(image), GroundTruth(masks, labels, crowd, areas)

    def num_objects(self, index: int) -> int:
        return len(self.read(index).labels)

    def mask_shape(self, index: int) -> None:
        return None

    def read(self, index: int) -> GroundTruth:
        return self.scene(index)[1]
