"""The multi-scale deformable attention pixel decoder of Mask2Former."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpdiag.config import ModelConfig
from mpdiag.models.attention import sine_position
from mpdiag.ops import cell_centers, ms_deform_attn

LEVELS = 3  # strides 32, 16, 8, in this order everywhere


class DeformableSelfAttention(nn.Module):
    """Deformable attention of each cell to a few learned offsets on every level."""

    def __init__(self, dim: int, num_heads: int, num_points: int) -> None:
        super().__init__()
        self.num_heads, self.num_points = num_heads, num_points
        self.sampling_offsets = nn.Linear(dim, num_heads * LEVELS * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * LEVELS * num_points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Initialise as Deformable DETR: head h samples in direction h, point p at distance p+1."""
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1)
        offsets = direction[:, None, None] * distance[:, None]
        with torch.no_grad():
            self.sampling_offsets.weight.zero_()
            self.sampling_offsets.bias.copy_(offsets.expand(-1, LEVELS, -1, -1).flatten())
            self.attention_weights.weight.zero_()
            self.attention_weights.bias.zero_()
        for projection in (self.value_proj, self.output_proj):
            _xavier(projection)

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        reference: Tensor,
        shapes: list[tuple[int, int]],
        sizes: Tensor,
    ) -> Tensor:
        """Attend from (B, S, C) queries to (B, S, C) values; returns (B, S, C).

        `reference` is the (S, H * LEVELS * P * 2) point of each query, repeated for the offsets,
        and `sizes` the (H * LEVELS * P * 2,) widths and heights of the offsets' levels.
        """
        values = self.value_proj(value).unflatten(-1, (self.num_heads, -1))
        per_head = (self.num_heads, LEVELS, self.num_points)
        locations = reference + self.sampling_offsets(query) / sizes
        weights = _softmax(self.attention_weights(query).unflatten(-1, (self.num_heads, -1)))
        sampled = ms_deform_attn(
            values,
            shapes,
            locations.unflatten(-1, (*per_head, 2)),
            weights.unflatten(-1, per_head[1:]),
        )
        output: Tensor = self.output_proj(sampled)
        return output


class EncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward network, each followed by a norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.self_attn = DeformableSelfAttention(dim, config.num_heads, config.encoder_points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, config.encoder_feedforward_dim)
        self.linear2 = nn.Linear(config.encoder_feedforward_dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        shapes: list[tuple[int, int]],
        sizes: Tensor,
    ) -> Tensor:
        x = self.norm1(x + self.self_attn(x + position, x, reference, shapes, sizes))
        output: Tensor = self.norm2(x + self.linear2(self.linear1(x).relu()))
        return output


class ConvNorm(nn.Module):
    """Convolution without bias, followed by group norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(32, outputs)
        nn.init.kaiming_uniform_(self.conv.weight, a=1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.norm(self.conv(x))
        return output


class PixelDecoder(nn.Module):
    """Multi-scale deformable attention encoder with the mask features of stride 4."""

    def __init__(self, config: ModelConfig, channels: list[int]) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.num_heads, self.num_points = config.num_heads, config.encoder_points
        projections = [nn.Conv2d(inputs, dim, 1) for inputs in channels[:0:-1]]
        for projection in projections:
            _xavier(projection)
        self.input_proj = nn.ModuleList(
            nn.Sequential(projection, nn.GroupNorm(32, dim)) for projection in projections
        )
        self.level_embed = nn.Parameter(torch.randn(LEVELS, dim))
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.lateral = ConvNorm(channels[0], dim, 1)
        self.output = ConvNorm(dim, dim, 3)
        self.mask_features = nn.Conv2d(dim, config.mask_dim, 1)
        nn.init.kaiming_uniform_(self.mask_features.weight, a=1)
        nn.init.zeros_(self.mask_features.get_parameter("bias"))

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Compute feature maps of strides 32, 16, 8 and the mask features of stride 4.

        It runs in float32 under autocast, as the official implementation.

        Args:
            features: (B, C, h, w) backbone features of strides 4, 8, 16, 32.
        """
        with torch.autocast(features[0].device.type, enabled=False):
            stride4, *rest = [feature.float() for feature in features]
            maps = [
                projection(feature)
                for projection, feature in zip(self.input_proj, rest[::-1], strict=True)
            ]
            levels = self._encode(maps)
            top_down = F.interpolate(
                levels[-1], size=stride4.shape[-2:], mode="bilinear", align_corners=False
            )
            finest = self.output(self.lateral(stride4) + top_down).relu()
            return levels, self.mask_features(finest)

    def _encode(self, maps: list[Tensor]) -> list[Tensor]:
        shapes = [(x.shape[-2], x.shape[-1]) for x in maps]
        device, dim = maps[0].device, maps[0].shape[1]
        position = torch.cat(
            [
                sine_position(*shape, dim, device) + embed
                for shape, embed in zip(shapes, self.level_embed, strict=True)
            ]
        )
        # Both are repeated for all offsets of a query: operators on long rows are faster.
        heads, points = self.num_heads, self.num_points
        reference = torch.cat([cell_centers(*shape, device) for shape in shapes])
        reference = reference.repeat(1, heads * LEVELS * points)
        # Filled on the device: a copy of the numbers would wait for the GPU.
        lengths = [maps[0].new_full((), side) for shape in shapes for side in reversed(shape)]
        sizes = torch.stack(lengths).view(LEVELS, 1, 2).repeat(heads, 1, points, 1).flatten()
        x = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        for layer in self.layers:
            x = layer(x, position, reference, shapes, sizes)
        flat = x.split([height * width for height, width in shapes], dim=1)
        return [
            level.transpose(1, 2).unflatten(-1, shape)
            for level, shape in zip(flat, shapes, strict=True)
        ]


def _softmax(logits: Tensor) -> Tensor:
    """Return the softmax over the last dimension.

    On the CPU, PyTorch's is slow for rows of a few values, and fast over the first dimension.
    """
    if logits.device.type != "cpu":
        return logits.softmax(-1)
    return logits.movedim(-1, 0).contiguous().softmax(0).movedim(0, -1)


def _xavier(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.get_parameter("bias"))
