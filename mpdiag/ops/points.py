"""Bilinear sampling of masks at points, for matching and mask losses.

A point is (x, y) in [0, 1] over the padded image, so predictions and targets of different
resolutions are sampled at the same place (PointRend; `point_sample` in detectron2).
"""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.ops.mask_kernel import mask_kernel_for

_BANDS = 32

MAX_TEMPORARY = 2**26
"""Bytes of the largest array that sampling allocates besides its result."""


def seeded_points(count: int, seed: int) -> Tensor:
    """Return (count, 2) uniform points that depend only on `seed`.

    They are sorted in bands from top to bottom, so that sampling reads nearby memory.
    """
    points = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))
    x, y = points.unbind(1)
    return points[((y * _BANDS).floor() + x).argsort(stable=True)]


def cell_centers(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return (height * width, 2) points at the centres of a grid's cells, row by row."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1).flatten(0, 1)


def sample_logits(logits: Tensor, points: Tensor) -> Tensor:
    """Sample maps at points; differentiable in the maps.

    Args:
        logits: (R, C, h, w).
        points: (R, P, 2), or (P, 2) shared by all rows.

    Returns:
        (R, C, P), bilinear with zeros outside of the map.
    """
    grid = (2 * points - 1).expand(len(logits), -1, -1).unsqueeze(1)
    return F.grid_sample(logits, grid.to(logits.dtype), align_corners=False).squeeze(2)


def rows_per_block(row_bytes: int) -> int:
    """Return the number of rows whose temporary arrays of `row_bytes` stay within MAX_TEMPORARY."""
    return max(MAX_TEMPORARY // row_bytes, 1)


def sample_masks(masks: Tensor, index: Tensor, points: Tensor) -> Tensor:
    """Sample binary masks at points without a float copy of the masks, on the CPU in C++.

    Args:
        masks: (T, H, W) bool or uint8.
        index: (R,) index of the mask of each row.
        points: (R, P, 2), or (P, 2) shared by all rows.

    Returns:
        (R, P) float32, interpolated as by `sample_logits`.
    """
    library = mask_kernel_for(points)
    if library is not None and masks.element_size() == 1:
        return _compiled_samples(library, masks, index, points)
    size = rows_per_block(max(points.shape[-2], 1) * index.element_size())
    if len(index) <= size:
        return _sample_masks(masks, index, points)
    blocks = index.split(size)
    own = points.split(size) if points.dim() == 3 else [points] * len(blocks)
    return torch.cat([_sample_masks(masks, *block) for block in zip(blocks, own, strict=True)])


def _compiled_samples(library: ctypes.CDLL, masks: Tensor, index: Tensor, points: Tensor) -> Tensor:
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(masks):
        raise IndexError(f"index of a mask out of range for {len(masks)} masks")
    masks, index, points = masks.contiguous(), index.contiguous(), points.float().contiguous()
    count, shared = points.shape[-2], points.dim() == 2
    sampled = torch.empty(len(index), count)
    sizes = (*masks.shape[-2:], len(index), count, 0 if shared else count, torch.get_num_threads())
    pointers = [x.data_ptr() for x in (masks, index, points, sampled)]
    library.sample_masks(*map(ctypes.c_int64, sizes), *map(ctypes.c_void_p, pointers))
    return sampled


def _sample_masks(masks: Tensor, index: Tensor, points: Tensor) -> Tensor:
    height, width = masks.shape[-2:]
    flat = masks.reshape(-1)
    x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    base = (index * (height * width))[:, None]
    total = torch.zeros((), device=masks.device)
    for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
        for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            at = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            total = total + flat[base + at] * (weight_x * weight_y * inside)
    return total
