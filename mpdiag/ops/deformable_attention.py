"""Multi-scale deformable attention (Deformable DETR, section 4.1), by the backend that fits."""

import torch
from torch import Tensor

from mpdiag.ops.backends import choose
from mpdiag.ops.operator import Shapes


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Shapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sample each level at a few points per query and head, and sum by attention weight.

    Which backend runs: `mpdiag.ops.backends`. Sums are made in float32 (float64 where the value
    is), under autocast too: locations and weights are brought to it, so keep locations in float32,
    since bfloat16 tells only 256 places of a level apart.

    Args:
        value: (B, S, heads, D), all levels flattened row by row and concatenated.
        spatial_shapes: (height, width) of each level; their areas sum to S.
        sampling_locations: (B, Q, heads, levels, points, 2), x and y in [0, 1] over the level;
            a location outside sees zeros.
        attention_weights: (B, Q, heads, levels, points).

    Returns:
        (B, Q, heads * D), in the value's dtype.

    Raises:
        ValueError: the shapes of the arguments don't fit.
        DependencyError: the backend that was asked for can't run.
    """
    _check(value, spatial_shapes, sampling_locations, attention_weights)
    device, dtype = value.device.type, value.dtype
    backend, function = choose(device, dtype)
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    with torch.autocast(device, enabled=False):
        output = function(
            value if backend.halves else value.to(precise),
            spatial_shapes,
            sampling_locations.to(precise),
            attention_weights.to(precise),
        )
        return output.to(dtype)


def _check(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> None:
    """Compiled kernels trust these sizes."""
    cells = sum(height * width for height, width in shapes)
    fits = (
        value.dim() == 4
        and locations.dim() == 6
        and value.shape[1] == cells
        and min(min(shape) for shape in shapes) > 0
        and locations.shape[0] == value.shape[0]
        and locations.shape[2:4] == (value.shape[2], len(shapes))
        and locations.shape[5] == 2
        and weights.shape == locations.shape[:5]
        and value.device == locations.device == weights.device
    )
    if not fits:
        raise ValueError(
            f"value {tuple(value.shape)} on {value.device}, levels {list(shapes)}, "
            f"locations {tuple(locations.shape)} on {locations.device} and "
            f"weights {tuple(weights.shape)} on {weights.device} don't belong together"
        )
