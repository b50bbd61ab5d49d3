"""Masks of logits, their overlaps, and sums of logits over points, for matching and metrics.

On the CPU, C++ (`mask_kernel.cpp`) reads each map once without copying all maps. PyTorch is used on
other devices and where C++ cannot be compiled. Cell counts are exact in both.
"""

import ctypes
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.ops.mask_kernel import mask_kernel_for
from mpdiag.ops.points import sample_logits


class Overlaps(NamedTuple):
    """Cell counts of an image's masks, int64.

    Attributes:
        area: (L + 1, N) of each mask.
        intersection: (L, N) with the mask of the previous layer.
        overlap: (L + 1, N, G) with each GT.
    """

    area: Tensor
    intersection: Tensor
    overlap: Tensor


class PointSums(NamedTuple):
    """Sums over points, float32, of mask logits x and GT t.

    Attributes:
        softplus, sigmoid: (L + 1, B, N) of softplus(x) and sigmoid(x).
        logit_truth, sigmoid_truth: (L + 1, B, N, G) of x t and sigmoid(x) t.
    """

    softplus: Tensor
    sigmoid: Tensor
    logit_truth: Tensor
    sigmoid_truth: Tensor


class LogitMaps(ctypes.Structure):
    """The struct `Maps` of the C++ file."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                *("layers", "images", "queries", "height", "width"),
                *("layer_stride", "image_stride", "query_stride", "threads"),
            )
        ),
        ("logits", ctypes.c_void_p),
    )


class Masks(NamedTuple):
    """Masks of logits.

    Attributes:
        inside: bool (N, h, w), logit > 0.
        area: int64 (N,) number of cells inside.
        probability: float32 (N,) sum of the sigmoids inside.
    """

    inside: Tensor
    area: Tensor
    probability: Tensor


@torch.no_grad()
def masks_of_logits(logits: Tensor) -> Masks:
    """Binarise (N, h, w) logits and sum the probabilities inside of each mask."""
    library = mask_kernel_for(logits)
    if library is None:
        inside = logits > 0
        return Masks(inside, inside.sum((1, 2)), (logits.float().sigmoid() * inside).sum((1, 2)))
    count, height, width = logits.shape
    result = Masks(
        torch.empty(count, height, width, dtype=torch.bool),
        torch.empty(count, dtype=torch.int64),
        torch.empty(count),
    )
    values = logits.float().contiguous()
    sizes = (count, height * width, torch.get_num_threads())
    pointers = [x.data_ptr() for x in (values, *result)]
    library.masks_of_logits(*map(ctypes.c_int64, sizes), *map(ctypes.c_void_p, pointers))
    return result


@torch.no_grad()
def mask_overlaps(mask_logits: Tensor, gt_masks: Tensor, valid: Tensor) -> Overlaps:
    """Count the cells of one image's masks, binarised at logit > 0.

    Args:
        mask_logits: (L + 1, N, h, w).
        gt_masks: (G, rows, columns) bool over the valid upper left part; other cells are ignored.
        valid: (L + 1, N) bool; the other masks count as empty.
    """
    library = mask_kernel_for(mask_logits)
    (layers, queries, height, width), (gts, rows, columns) = mask_logits.shape, gt_masks.shape
    if rows > height or columns > width or valid.shape != (layers, queries):
        raise ValueError("the shapes of mask_logits, gt_masks and valid do not match")
    if library is None:
        return _plain_overlaps(mask_logits[..., :rows, :columns], gt_masks, valid)
    result = Overlaps(
        torch.empty(layers, queries, dtype=torch.int64),
        torch.empty(layers - 1, queries, dtype=torch.int64),
        torch.empty(layers, queries, gts, dtype=torch.int64),
    )
    valid, truth = valid.contiguous(), gt_masks.contiguous()
    _call(library.overlaps, mask_logits[:, None], rows, columns, valid, truth, gts, *result)
    return result


def _plain_overlaps(mask_logits: Tensor, gt_masks: Tensor, valid: Tensor) -> Overlaps:
    masks = ((mask_logits > 0) & valid[..., None, None]).flatten(2)
    # float32 counts exactly below 2^24 cells.
    overlap = torch.einsum("lns,gs->lng", masks.float(), gt_masks.flatten(1).float())
    return Overlaps(masks.sum(-1), (masks[:-1] & masks[1:]).sum(-1), overlap.long())


@torch.no_grad()
def point_sums(mask_logits: Tensor, truth: Tensor, points: Tensor | None) -> PointSums:
    """Sum all layers' mask logits and their products with all GT over points.

    Args:
        mask_logits: (L + 1, B, N, h, w).
        truth: (B, G, P) float32, each GT at the points.
        points: (P, 2) sampled as by `sample_logits`; all cells if None.
    """
    library = mask_kernel_for(mask_logits)
    layers, batch, queries, height, width = mask_logits.shape
    gts, count = truth.shape[1:]
    if len(truth) != batch or count != (height * width if points is None else len(points)):
        raise ValueError("the shapes of mask_logits, truth and points do not match")
    if library is None:
        return _plain_sums(mask_logits, truth, points)
    result = PointSums(
        *torch.empty(2, layers, batch, queries), *torch.empty(2, layers, batch, queries, gts)
    )
    places = None if points is None else points.float().contiguous()
    _call(library.point_sums, mask_logits, places, count, truth.contiguous(), gts, *result)
    return result


def _plain_sums(mask_logits: Tensor, truth: Tensor, points: Tensor | None) -> PointSums:
    logits = mask_logits.float()
    if points is None:
        logits = logits.flatten(3)
    else:
        sampled = sample_logits(logits.flatten(0, 1), points)
        logits = sampled.unflatten(0, mask_logits.shape[:2])
    sigmoid = logits.sigmoid()
    return PointSums(
        F.softplus(logits).sum(-1),
        sigmoid.sum(-1),
        torch.einsum("lbnp,bgp->lbng", logits, truth),
        torch.einsum("lbnp,bgp->lbng", sigmoid, truth),
    )


def _call(function: Any, mask_logits: Tensor, *arguments: Tensor | int | None) -> None:
    """Call a function of the C++ file on (L + 1, B, N, h, w) logits.

    Tensors are passed as pointers; `arguments` keeps them alive during the call.
    """
    logits = mask_logits.float()
    if logits.stride()[3:] != (logits.shape[4], 1):
        logits = logits.contiguous()
    maps = LogitMaps(
        *logits.shape, *logits.stride()[:3], torch.get_num_threads(), logits.data_ptr()
    )
    # Both pointers and int64 are 64-bit words.
    passed = [x.data_ptr() if isinstance(x, Tensor) else x for x in arguments]
    function(ctypes.byref(maps), *map(ctypes.c_void_p, passed))
