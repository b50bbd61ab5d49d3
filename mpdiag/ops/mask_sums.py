"""What matching and metrics count on mask logits: cells that masks share, and sums over points.

On the CPU one pass over each map in C++ (`mask_kernel.cpp`), without copies of all maps; by PyTorch
where that can't be compiled, and on other devices. Cells are counted exactly either way.
"""

import ctypes
import logging
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.errors import DependencyError
from mpdiag.ops.compiled_library import load_library
from mpdiag.ops.points import sample_logits

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("mask_kernel.cpp")


class Overlaps(NamedTuple):
    """Cells of an image's masks, int64.

    area          (L + 1, N) of each mask
    intersection  (L, N) shared with the layer before
    overlap       (L + 1, N, G) shared with each GT
    """

    area: Tensor
    intersection: Tensor
    overlap: Tensor


class PointSums(NamedTuple):
    """Sums over points, float32; x is a mask logit, t the truth.

    softplus, sigmoid            (L + 1, B, N) of softplus(x) and sigmoid(x)
    logit_truth, sigmoid_truth   (L + 1, B, N, G) of x t and sigmoid(x) t
    """

    softplus: Tensor
    sigmoid: Tensor
    logit_truth: Tensor
    sigmoid_truth: Tensor


class Maps(ctypes.Structure):
    """`Maps` of the C++ file."""

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


@cache
def kernels() -> ctypes.CDLL | None:
    """The compiled functions; None, and a warning, where they can't be had."""
    try:
        return load_library(SOURCE)
    except DependencyError as error:
        log.warning("masks are compared by PyTorch, which takes longer: %s", error)
        return None


@torch.no_grad()
def mask_overlaps(mask_logits: Tensor, gt_masks: Tensor, counted: Tensor) -> Overlaps:
    """Count cells of one image's masks, binarised at logit > 0.

    Args:
        mask_logits: (L + 1, N, h, w).
        gt_masks: (G, rows, columns) bool over the grid's upper left part; only that is counted.
        counted: (L + 1, N) bool; other masks are taken as empty.
    """
    library = library_for(mask_logits)
    (layers, queries, height, width), (gts, rows, columns) = mask_logits.shape, gt_masks.shape
    if rows > height or columns > width or counted.shape != (layers, queries):
        raise ValueError("masks, their GT and what is counted don't belong together")
    if library is None:
        return _plain_overlaps(mask_logits[..., :rows, :columns], gt_masks, counted)
    found = Overlaps(
        torch.empty(layers, queries, dtype=torch.int64),
        torch.empty(layers - 1, queries, dtype=torch.int64),
        torch.empty(layers, queries, gts, dtype=torch.int64),
    )
    counted, truth = counted.contiguous(), gt_masks.contiguous()
    _call(library.overlaps, mask_logits[:, None], rows, columns, counted, truth, gts, *found)
    return found


def _plain_overlaps(mask_logits: Tensor, gt_masks: Tensor, counted: Tensor) -> Overlaps:
    masks = ((mask_logits > 0) & counted[..., None, None]).flatten(2)
    # Cells are counted in float32, which is exact below 2^24 cells.
    overlap = torch.einsum("lns,gs->lng", masks.float(), gt_masks.flatten(1).float())
    return Overlaps(masks.sum(-1), (masks[:-1] & masks[1:]).sum(-1), overlap.long())


@torch.no_grad()
def point_sums(mask_logits: Tensor, truth: Tensor, points: Tensor | None) -> PointSums:
    """Sums of all layers' mask logits and of their products with all GT.

    Args:
        mask_logits: (L + 1, B, N, h, w).
        truth: (B, G, P) float32, each GT at the points.
        points: (P, 2) where logits are read, as `sample_logits` reads; every cell if None.
    """
    library = library_for(mask_logits)
    layers, batch, queries, height, width = mask_logits.shape
    gts, count = truth.shape[1:]
    if len(truth) != batch or count != (height * width if points is None else len(points)):
        raise ValueError("masks, their GT and the points don't belong together")
    if library is None:
        return _plain_sums(mask_logits, truth, points)
    found = PointSums(
        *torch.empty(2, layers, batch, queries), *torch.empty(2, layers, batch, queries, gts)
    )
    places = None if points is None else points.float().contiguous()
    _call(library.point_sums, mask_logits, places, count, truth.contiguous(), gts, *found)
    return found


def _plain_sums(mask_logits: Tensor, truth: Tensor, points: Tensor | None) -> PointSums:
    logits = mask_logits.float()
    if points is None:
        logits = logits.flatten(3)
    else:
        read = sample_logits(logits.flatten(0, 1), points)
        logits = read.unflatten(0, mask_logits.shape[:2])
    sigmoid = logits.sigmoid()
    return PointSums(
        F.softplus(logits).sum(-1),
        sigmoid.sum(-1),
        torch.einsum("lbnp,bgp->lbng", logits, truth),
        torch.einsum("lbnp,bgp->lbng", sigmoid, truth),
    )


def library_for(logits: Tensor) -> ctypes.CDLL | None:
    """The compiled functions where they take such logits: float32 loses signs of float64."""
    return kernels() if logits.device.type == "cpu" and logits.dtype != torch.float64 else None


def _call(function: Any, mask_logits: Tensor, *arguments: Tensor | int | None) -> None:
    """Call a function of the C++ file on (L + 1, B, N, h, w) logits, each map in one piece.

    Tensors go as pointers, which `arguments` keeps valid.
    """
    logits = mask_logits.float()
    if logits.stride()[3:] != (logits.shape[4], 1):
        logits = logits.contiguous()
    maps = Maps(*logits.shape, *logits.stride()[:3], torch.get_num_threads(), logits.data_ptr())
    # Pointers and int64 alike are words of 64 bits.
    passed = [x.data_ptr() if isinstance(x, Tensor) else x for x in arguments]
    function(ctypes.byref(maps), *map(ctypes.c_void_p, passed))
