"""Multi-scale deformable attention (Deformable DETR, section 4.1), in plain PyTorch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sample each level at a few points per query and head, and sum by attention weight.

    Args:
        value: (B, S, heads, D), all levels flattened row by row and concatenated.
        spatial_shapes: (height, width) of each level; their areas sum to S.
        sampling_locations: (B, Q, heads, levels, points, 2), x and y in [0, 1] over the level;
            a location outside sees zeros.
        attention_weights: (B, Q, heads, levels, points).

    Returns:
        (B, Q, heads * D).
    """
    batch, _, heads, channels = value.shape
    queries, levels, points = sampling_locations.shape[1], *sampling_locations.shape[3:5]
    grids = (2 * sampling_locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # (B * heads, D, S)
    sampled = []
    start = 0
    for (height, width), grid in zip(spatial_shapes, grids, strict=True):
        level = maps[..., start : start + height * width].unflatten(-1, (height, width))
        start += height * width
        sampled.append(F.grid_sample(level, grid, align_corners=False))
    weights = attention_weights.transpose(1, 2).reshape(batch * heads, 1, queries, levels * points)
    output = (torch.cat(sampled, dim=-1) * weights).sum(-1)  # (B * heads, D, Q)
    return output.view(batch, heads * channels, queries).transpose(1, 2)
