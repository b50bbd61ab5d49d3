"""Geometry of a sample: each transform maps (sample, generator) to a new sample.

Random ones draw from the generator they are given and from nothing else, so that an epoch can
be repeated. Deterministic ones ignore it and may be called without.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from mpdiag.data.sample import Sample


class Transform(Protocol):
    def __call__(self, sample: Sample, generator: torch.Generator, /) -> Sample: ...


class Compose:
    """Apply transforms one after the other, all with the same generator."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        for transform in self.transforms:
            sample = transform(sample, generator)
        return sample


class ResizeShortestEdge:
    """Bring the shorter edge to `short` pixels, or less where the longer would exceed `longest`.

    The output size is rounded as in detectron2, so that published models see the same input.
    """

    def __init__(self, short: int, longest: int) -> None:
        if not 0 < short <= longest:
            raise ValueError(f"need 0 < short <= longest, got short={short}, longest={longest}")
        self.short = short
        self.longest = longest

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of the given size is brought to."""
        scale = min(self.short / min(height, width), self.longest / max(height, width))
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def __call__(self, sample: Sample, generator: torch.Generator | None = None) -> Sample:
        height, width = sample.image.shape[-2:]
        return resize(sample, self.output_size(height, width))


class HorizontalFlip:
    """Mirror left and right with the given probability."""

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = probability

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        if torch.rand((), generator=generator).item() >= self.probability:
            return sample
        return replace(sample, image=sample.image.flip(-1), masks=sample.masks.flip(-1))


def resize(sample: Sample, size: tuple[int, int]) -> Sample:
    """Scale to (height, width): the image bilinear with antialiasing, masks by nearest centre."""
    if tuple(sample.image.shape[-2:]) == tuple(size):
        return sample
    image = functional.resize(sample.image, list(size), antialias=True)
    if len(sample.masks):
        masks = functional.resize(
            sample.masks.view(torch.uint8), list(size), InterpolationMode.NEAREST_EXACT
        ).view(torch.bool)
    else:
        masks = sample.masks.new_zeros((0, *size))
    return replace(sample, image=image, masks=masks)


def drop_empty(sample: Sample, generator: torch.Generator | None = None) -> Sample:
    """Leave out the segments whose mask has no pixel left."""
    kept = sample.masks.flatten(1).any(1)
    if bool(kept.all()):
        return sample
    return replace(sample, masks=sample.masks[kept], labels=sample.labels[kept])
