"""What training does to an image: torchvision's jitter of size and colours, and the whole chain.

torchvision's transforms draw from torch's global generator. Here it is lent to them, seeded from
the sample's own, and given back as it was, so that a sample depends on its generator alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.transforms import v2

from mpdiag.config import DataConfig
from mpdiag.data.sample import Sample
from mpdiag.data.transforms import (
    Compose,
    HorizontalFlip,
    OneOf,
    Pad,
    RandomCrop,
    ResizeShortestEdge,
    Transform,
    drop_empty,
    resize,
)


def build_augmentation(data: DataConfig) -> Compose:
    """Training's transforms, in the order of `AugmentConfig`: resize, crop, colours, flip.

    Padding comes last, so that it is always grey and always at the right and the bottom, as in
    Mask2Former's mappers. Segments that the crop cut away are left out.
    """
    augment = data.augment
    steps: list[Transform] = []
    if augment.scale_jitter is not None and augment.crop is not None:
        steps.append(ScaleJitter(augment.crop, augment.scale_jitter))
    elif augment.short_sides is not None:
        sides = augment.short_sides
        steps.append(OneOf([ResizeShortestEdge(side, augment.long_side) for side in sides]))
    elif data.short_side is not None:
        steps.append(ResizeShortestEdge(data.short_side, data.long_side))
    if augment.crop is not None:
        steps.append(RandomCrop(augment.crop, augment.single_category_max_area))
    if augment.color:
        steps.append(ColorJitter())
    if augment.flip:
        steps.append(HorizontalFlip())
    if augment.crop is not None:
        steps.append(Pad(augment.crop))
    return Compose([*steps, drop_empty])


class ScaleJitter:
    """Large-scale jitter: fit the image into (height, width), then scale it by a random factor.

    The size is torchvision's, which cuts fractions off where detectron2's ResizeScale rounds; the
    pixels are those of `resize`, since torchvision shifts masks by up to half a pixel.
    """

    def __init__(self, size: tuple[int, int], factors: tuple[float, float]) -> None:
        height, width = size
        self.jitter = v2.ScaleJitter((width, height), factors)  # that way round in torchvision

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        with _seeded_global_generator(generator):
            height, width = self.jitter.make_params([sample.image])["size"]
        return resize(sample, (max(1, height), max(1, width)))


class ColorJitter:
    """SSD's jitter of an image's colours; each of its four parts is left out half of the time.

    Parts, ranges and order are those of detectron2's ColorAugSSDTransform: +-32 on all values;
    then all values x 0.5..1.5 before or after the next two; saturation x 0.5..1.5; hue +-36
    degrees (18 of OpenCV's 180). torchvision's RandomPhotometricDistort differs: its brightness
    multiplies, its contrast spreads values around their mean, and it swaps channels. What SSD calls
    contrast is torchvision's brightness. One difference stays: torchvision blends with grey to
    change the saturation, which keeps the luma, where OpenCV scales HSV's S, which keeps V.
    """

    def __init__(self) -> None:
        add = v2.RandomApply([v2.Lambda(_brighten)])
        multiply = v2.RandomApply([v2.ColorJitter(brightness=(0.5, 1.5))])
        saturation = v2.RandomApply([v2.ColorJitter(saturation=(0.5, 1.5))])
        hue = v2.RandomApply([v2.ColorJitter(hue=0.1)])
        orders = [[multiply, saturation, hue], [saturation, hue, multiply]]
        self.jitter = v2.Compose([add, v2.RandomChoice([v2.Compose(order) for order in orders])])

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        with _seeded_global_generator(generator):
            return replace(sample, image=self.jitter(sample.image))


def _brighten(image: Tensor) -> Tensor:
    """Add one value from -32..32 to all of a uint8 image."""
    change = torch.empty(()).uniform_(-32, 32)
    return (image + change).clamp(0, 255).to(torch.uint8)


@contextmanager
def _seeded_global_generator(generator: torch.Generator) -> Iterator[None]:
    """torch's global CPU generator, seeded from `generator` meanwhile.

    Not by `torch.manual_seed`, which would seed the accelerators too and not give them back.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
