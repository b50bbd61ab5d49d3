"""Multi-scale deformable attention (Deformable DETR, section 4.1)."""

import torch
from torch import Tensor

from mpdiag.ops.backends import select_backend
from mpdiag.ops.custom_operator import SpatialShapes


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sample each level at a few points per query and head, and sum with attention weights.

    `mpdiag.ops.backends` selects the implementation. Sums are computed in float32 (float64 for
    float64 values), also under autocast. Pass locations in float32: bfloat16 has only 256 distinct
    values per level.

    Args:
        value: (B, S, heads, D), all levels flattened row by row and concatenated.
        spatial_shapes: (height, width) of each level; their areas sum to S.
        sampling_locations: (B, Q, heads, levels, points, 2), x and y in [0, 1] over the level;
            zeros are sampled outside.
        attention_weights: (B, Q, heads, levels, points).

    Returns:
        (B, Q, heads * D) in the dtype of the value.

    Raises:
        ValueError: the shapes of the arguments do not match.
        DependencyError: the requested backend cannot run.
    """
    _check(value, spatial_shapes, sampling_locations, attention_weights)
    device, dtype = value.device.type, value.dtype
    backend, function = select_backend(device, dtype)
    compute_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    with torch.autocast(device, enabled=False):
        output = function(
            value if dtype in backend.dtypes else value.to(compute_dtype),
            spatial_shapes,
            sampling_locations.to(compute_dtype),
            attention_weights.to(compute_dtype),
        )
        return output.to(dtype)


def _check(value: Tensor, shapes: SpatialShapes, locations: Tensor, weights: Tensor) -> None:
    """Check the shapes; compiled kernels do no bounds checks."""
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
            f"weights {tuple(weights.shape)} on {weights.device} do not match"
        )
