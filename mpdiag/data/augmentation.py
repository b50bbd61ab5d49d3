"""Training augmentation: scale jitter and color jitter of torchvision, and the whole pipeline.

torchvision draws from torch's global generator. It is seeded from the sample's generator for each
call and restored afterwards, so that a sample depends on its own generator only.
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
    """Return the training transforms: resize, crop, color jitter, flip, pad.

    Padding is last, so that it is grey and on the right and the bottom, as in the dataset mappers
    of Mask2Former. Segments without pixels in the crop are removed.
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

    torchvision computes the size and truncates it; ResizeScale of detectron2 rounds it. `resize`
    computes the pixels, because torchvision shifts masks by up to half a pixel.
    """

    def __init__(self, size: tuple[int, int], factors: tuple[float, float]) -> None:
        height, width = size
        self.jitter = v2.ScaleJitter((width, height), factors)  # order of torchvision

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        with _seeded_global_generator(generator):
            height, width = self.jitter.make_params([sample.image])["size"]
        return resize(sample, (max(1, height), max(1, width)))


class ColorJitter:
    """SSD color jitter of four steps, each applied with probability 0.5.

    Steps, ranges and order are those of ColorAugSSDTransform in detectron2: add -32..32; multiply
    by 0.5..1.5, either before or after the next two; saturation x 0.5..1.5; hue +-36 degrees (18
    of the 180 in OpenCV). RandomPhotometricDistort of torchvision is different: its brightness
    multiplies, its contrast scales around the mean, and it swaps channels. The contrast of SSD is
    the brightness of torchvision. One difference to detectron2 remains: torchvision changes the
    saturation by blending with grey, which keeps the luma; OpenCV scales S of HSV, which keeps V.
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
    """Add a random value in -32..32 to a uint8 image."""
    change = torch.empty(()).uniform_(-32, 32)
    return (image + change).clamp(0, 255).to(torch.uint8)


@contextmanager
def _seeded_global_generator(generator: torch.Generator) -> Iterator[None]:
    """Seed torch's global CPU generator from `generator`, and restore it on exit.

    `torch.manual_seed` would also seed the accelerators and not restore them.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
