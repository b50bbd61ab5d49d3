"""Mask2Former, from images to the predictions of all layers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpdiag.config import ModelConfig
from mpdiag.models.backbones import build_backbone, has_depthwise_convolutions
from mpdiag.models.decoder import Decoder, Mask2FormerOutput
from mpdiag.models.mask_piloting import PilotInputs
from mpdiag.models.pixel_decoder import PixelDecoder
from mpdiag.ops import to_device

STRIDE = 32  # image sizes are padded to a multiple of it


class Mask2Former(nn.Module):
    """Backbone, pixel decoder and masked-attention decoder (Mask2Former, section 3).

    MP-Former is the same model with `query_position=False` and `label_embedding=True`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, channels = build_backbone(config.backbone)
        self._depthwise = has_depthwise_convolutions(self.backbone)
        self.pixel_decoder = PixelDecoder(config, channels)
        self.decoder = Decoder(config)
        self.register_buffer("mean", torch.tensor(config.pixel_mean)[:, None, None], False)
        self.register_buffer("std", torch.tensor(config.pixel_std)[:, None, None], False)

    def forward(
        self, images: Sequence[Tensor], pilot: PilotInputs | None = None
    ) -> Mask2FormerOutput:
        """Predict all layers.

        Args:
            images: uint8 or float (3, H, W) RGB in 0..255, of any sizes.
            pilot: inputs of the MP part, with masks over the padded size of this batch.
        """
        levels, mask_features = self.features(images)
        output: Mask2FormerOutput = self.decoder(levels, mask_features, pilot)
        return output

    def features(self, images: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return (B, C, h, w) feature maps of strides 32, 16 and 8, and the mask features."""
        pixels = self.preprocess(images)
        if self._depthwise and pixels.device.type == "cpu":  # a fifth faster in this order
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        levels, mask_features = self.pixel_decoder(self.backbone(pixels))
        return levels, mask_features

    def preprocess(self, images: Sequence[Tensor]) -> Tensor:
        """Normalise images and pad them with zeros at the right and bottom to (B, 3, Hp, Wp)."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        height, width = padded_size([(x.shape[-2], x.shape[-1]) for x in images])
        normalised = [(to_device(x, mean.device).to(mean.dtype) - mean) / std for x in images]
        return torch.stack(
            [F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2])) for x in normalised]
        )


def padded_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the common (height, width) of a batch, rounded up to a multiple of 32."""
    height = max(size[0] for size in sizes)
    width = max(size[1] for size in sizes)
    return -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE
