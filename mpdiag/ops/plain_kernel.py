"""Multi-scale deformable attention in plain PyTorch, for every device."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.ops.custom_operator import AttentionFunction, SpatialShapes


def load() -> AttentionFunction:
    """Return the function, which runs everywhere."""
    return plain_ms_deform_attn


def plain_ms_deform_attn(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Compute `ms_deform_attn` by grid_sample. All tensors have one dtype."""
    batch, _, heads, channels = value.shape
    queries = sampling_locations.shape[1]
    grids = (2 * sampling_locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    weights = attention_weights.permute(3, 0, 2, 1, 4).flatten(1, 2)  # (levels, B * heads, Q, P)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # (B * heads, D, S)
    areas = [height * width for height, width in spatial_shapes]
    output = torch.zeros((), device=value.device, dtype=value.dtype)
    # One level at a time: the samples of all levels would be the largest tensor of the model.
    for level, shape, grid, weight in zip(
        maps.split(areas, dim=-1), spatial_shapes, grids, weights, strict=True
    ):
        sampled = F.grid_sample(level.unflatten(-1, shape), grid, align_corners=False)
        output = output + torch.einsum("bdqp,bqp->bdq", sampled, weight)
    return output.reshape(batch, heads * channels, queries).transpose(1, 2)
