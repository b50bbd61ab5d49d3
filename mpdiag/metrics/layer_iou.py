"""mIoU-L^i: mean IoU of a query's masks in adjacent layers (MP-Former, Eq. 1)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LayerMiou:
    """mIoU-L^i for i = 1..L, each (L,) float64 in 0..1; NaN where there is nothing to average.

    Attributes:
        miou_l: pairs of two empty masks are left out.
        miou_l_empty0: pairs of two empty masks count as 0.
        miou_l_empty1: pairs of two empty masks count as 1.
        miou_l_matched: over queries that match a GT in the last layer, empty pairs left out; None
            without an assignment.
        empty_pairs: share of pairs with two empty masks.
    """

    miou_l: Tensor
    miou_l_empty0: Tensor
    miou_l_empty1: Tensor
    miou_l_matched: Tensor | None
    empty_pairs: Tensor


def valid_cells(height: int, width: int, stride: int = 4) -> tuple[int, int]:
    """Return rows and columns of the prediction grid that an unpadded image of this size covers."""
    return -(-height // stride), -(-width // stride)


def adjacent_overlap(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return intersections and areas of binary masks (L + 1, ..., h, w), in cells.

    Returns:
        intersection (L, ...) of layers i - 1 and i, and area (L + 1, ...), int64.
    """
    flat = masks.flatten(-2)
    return (flat[:-1] & flat[1:]).sum(-1), flat.sum(-1)


def adjacent_iou(intersection: Tensor, area: Tensor) -> Tensor:
    """Return the IoU of layers i - 1 and i, (L, ...) float64; NaN where both masks are empty.

    Args:
        intersection: (L, ...) as of `adjacent_overlap`.
        area: (L + 1, ...) as of `adjacent_overlap`.
    """
    union = area[:-1] + area[1:] - intersection
    return torch.where(union > 0, intersection.double() / union, torch.nan)


def layer_miou(
    mask_logits: Tensor,
    *,
    valid: tuple[int, int] | None = None,
    assignment: Tensor | None = None,
) -> LayerMiou:
    """Return mIoU-L^i averaged over all queries (as the paper's text and Table 1; its Eq. 1 sums).

    Args:
        mask_logits: (L + 1, ..., N, h, w); masks are binarised at logit > 0.
        valid: rows and columns of the grid that the unpadded image covers; all if None.
        assignment: (L + 1, ..., N) GT index or -1, for `miou_l_matched`.
    """
    masks = mask_logits > 0
    if valid is not None:
        masks = masks[..., : valid[0], : valid[1]]
    iou = adjacent_iou(*adjacent_overlap(masks)).flatten(1)
    filled = ~iou.isnan()
    total, pairs, count = iou.nansum(1), filled.sum(1), max(iou.shape[1], 1)
    empty = 1 - pairs / count
    matched = None
    if assignment is not None:
        chosen = filled & (assignment[-1].flatten() >= 0).to(filled.device)
        matched = torch.where(chosen, iou, 0.0).sum(1) / chosen.sum(1)
    return LayerMiou(total / pairs, total / count, total / count + empty, matched, empty)
