"""Geometric transforms of a sample: each maps (sample, generator) to a new sample.

Random transforms draw from the given generator only, so that an epoch is reproducible.
Deterministic transforms ignore the generator, which is then optional.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.v2 import functional

from mpdiag.data.sample import Sample

GREY = 128  # padding value before normalisation, as in detectron2


class Transform(Protocol):
    def __call__(self, sample: Sample, generator: torch.Generator, /) -> Sample: ...


class Compose:
    """Apply transforms in order, all with the same generator."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        for transform in self.transforms:
            sample = transform(sample, generator)
        return sample


class OneOf:
    """Apply one of the transforms, chosen uniformly at random."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        return self.transforms[_random_index(len(self.transforms), generator)](sample, generator)


class ResizeShortestEdge:
    """Resize the shorter edge to `short` pixels, limited by `longest` for the longer edge.

    The output size is rounded as in detectron2. The pixels are those of torchvision's resize; those
    of Pillow's, which detectron2 uses, differ by 1 in some values.

    Raises:
        ValueError: not 0 < short <= longest.
    """

    def __init__(self, short: int, longest: int) -> None:
        if not 0 < short <= longest:
            raise ValueError(f"need 0 < short <= longest, got short={short}, longest={longest}")
        self.short = short
        self.longest = longest

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) after resizing."""
        scale = min(self.short / min(height, width), self.longest / max(height, width))
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def __call__(self, sample: Sample, generator: torch.Generator | None = None) -> Sample:
        height, width = sample.image.shape[-2:]
        return resize(sample, self.output_size(height, width))


class HorizontalFlip:
    """Flip left and right with the given probability."""

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = probability

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        if torch.rand((), generator=generator).item() >= self.probability:
            return sample
        return replace(sample, image=sample.image.flip(-1), masks=sample.masks.flip(-1))


class RandomCrop:
    """Crop a window of at most (height, width) at a uniformly random position.

    With `single_category_max_area` below 1, up to ten windows are tried until no class covers this
    fraction of the labelled pixels. The segments of a class count as one, and a window with a
    single class never passes (RandomCrop_CategoryAreaConstraint of detectron2).
    """

    tries = 10

    def __init__(self, size: tuple[int, int], single_category_max_area: float = 1.0) -> None:
        self.size = size
        self.single_category_max_area = single_category_max_area

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        height, width = sample.image.shape[-2:]
        window = self._window(height, width, generator)
        if self.single_category_max_area < 1:
            classes = _class_masks(sample)
            for _ in range(self.tries - 1):
                if _largest_class_fraction(classes[:, *window]) < self.single_category_max_area:
                    break
                window = self._window(height, width, generator)
        # Copy, so that a worker does not send the whole image.
        return replace(
            sample, image=sample.image[:, *window].clone(), masks=sample.masks[:, *window].clone()
        )

    def _window(self, height: int, width: int, generator: torch.Generator) -> tuple[slice, slice]:
        rows, columns = min(self.size[0], height), min(self.size[1], width)
        top = _random_index(height - rows + 1, generator)
        left = _random_index(width - columns + 1, generator)
        return slice(top, top + rows), slice(left, left + columns)


class Pad:
    """Pad to (height, width) on the right and the bottom: images with grey, masks with 0."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, sample: Sample, generator: torch.Generator | None = None) -> Sample:
        height, width = sample.image.shape[-2:]
        below, right = max(0, self.size[0] - height), max(0, self.size[1] - width)
        if not below and not right:
            return sample
        padding = (0, right, 0, below)
        return replace(
            sample,
            image=pad(sample.image, padding, value=GREY),
            masks=pad(sample.masks, padding),
        )


def resize(sample: Sample, size: tuple[int, int]) -> Sample:
    """Resize to (height, width): images bilinear with antialiasing, masks nearest-exact."""
    if tuple(sample.image.shape[-2:]) == tuple(size):
        return sample
    image = functional.resize(sample.image, list(size), antialias=True)
    return replace(sample, image=image, masks=_nearest(sample.masks, size))


def _nearest(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize as torchvision's `nearest-exact`, three times as fast for large masks."""
    height, width = masks.shape[-2:]
    rows = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(np.int64)
    columns = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(np.int64)
    pixels = masks.numpy()
    if size[0] < height:  # first the rows: copying whole rows is faster
        return torch.from_numpy(pixels.take(rows, axis=1).take(columns, axis=2))
    return torch.from_numpy(pixels.take(columns, axis=2).take(rows, axis=1))


def drop_empty(sample: Sample, generator: torch.Generator | None = None) -> Sample:
    """Remove the segments whose mask is empty."""
    kept = torch.from_numpy(sample.masks.numpy().any(axis=(1, 2)))  # faster than torch
    if bool(kept.all()):
        return sample
    return replace(sample, masks=sample.masks[kept], labels=sample.labels[kept])


def _random_index(count: int, generator: torch.Generator) -> int:
    """Return a uniformly random integer in 0..count - 1."""
    return int(torch.randint(count, (), generator=generator))


def _class_masks(sample: Sample) -> npt.NDArray[np.bool_]:
    """Return (C, H, W) masks, one per class of the sample."""
    masks, labels = sample.masks.numpy(), sample.labels.numpy()
    classes = [masks[labels == label].any(axis=0) for label in np.unique(labels)]
    return np.stack(classes) if classes else masks


def _largest_class_fraction(classes: npt.NDArray[np.bool_]) -> float:
    """Return the fraction of labelled pixels of the largest class; 1 if no pixel is labelled."""
    labelled = int(classes.any(axis=0).sum())
    return int(classes.sum(axis=(1, 2)).max()) / labelled if labelled else 1.0
