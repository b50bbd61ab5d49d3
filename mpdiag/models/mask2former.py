"""Mask2Former, whole: images in, predictions of all layers out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpdiag.config import ModelConfig
from mpdiag.data import Sample
from mpdiag.models.backbones import build_backbone
from mpdiag.models.decoder import Decoder, Output
from mpdiag.models.mask_piloting import Pilot
from mpdiag.models.pixel_decoder import PixelDecoder

T = TypeVar("T")

# Of a batch's images at inference, by kind of device; more is slower, or too much.
PIXELS_AT_ONCE = {"cpu": 2**20, "cuda": 2**23}
STRIDE = 32  # images are padded to a multiple of it


class Mask2Former(nn.Module):
    """Backbone, pixel decoder and masked-attention decoder (Mask2Former, section 3).

    MP-Former is the same model with `query_position=False` and `label_embedding=True`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, channels = build_backbone(config.backbone)
        self.pixel_decoder = PixelDecoder(config, channels)
        self.decoder = Decoder(config)
        self.register_buffer("mean", torch.tensor(config.pixel_mean)[:, None, None], False)
        self.register_buffer("std", torch.tensor(config.pixel_std)[:, None, None], False)

    def forward(self, images: Sequence[Tensor], pilot: Pilot | None = None) -> Output:
        """Predict all layers.

        Args:
            images: uint8 or float (3, H, W) RGB in 0..255, of any sizes.
            pilot: the MP part of training, with masks over this batch's padded extent.
        """
        features = self.backbone(self.batch(images))
        levels, mask_features = self.pixel_decoder(features)
        output: Output = self.decoder(levels, mask_features, pilot)
        return output

    def batch(self, images: Sequence[Tensor]) -> Tensor:
        """(B, 3, Hp, Wp): normalised, then padded with zeros at the right and the bottom."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        height, width = padded_size([(x.shape[-2], x.shape[-1]) for x in images])
        normalised = [(x.to(mean.device, mean.dtype) - mean) / std for x in images]
        return torch.stack(
            [F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2])) for x in normalised]
        )


def padded_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Common (height, width) of a batch: the largest of each, up to a multiple of 32."""
    height = max(size[0] for size in sizes)
    width = max(size[1] for size in sizes)
    return -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE


def neighbours(
    items: Iterable[T], size_of: Callable[[T], tuple[int, int]], pixels: int
) -> Iterator[tuple[tuple[int, int], list[T]]]:
    """Batches for inference, in order: neighbours that are padded to the same size, and that size.

    A batch pads its images to a common size, which changes predictions; so only images that are
    padded alike share one.

    Args:
        items: images in the order in which results are wanted.
        size_of: (height, width) that one is padded to.
        pixels: of a batch at the most; one image at the least.
    """
    for size, group in groupby(items, key=size_of):
        while batch := list(islice(group, max(pixels // (size[0] * size[1]), 1))):
            yield size, batch


def alike(samples: Iterable[Sample], pixels: int) -> Iterator[tuple[tuple[int, int], list[Sample]]]:
    """`neighbours` among samples that this model pads."""

    def size_of(sample: Sample) -> tuple[int, int]:
        return padded_size([(sample.image.shape[-2], sample.image.shape[-1])])

    return neighbours(samples, size_of, pixels)
