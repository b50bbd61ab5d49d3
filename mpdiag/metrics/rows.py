"""From one image's predictions to the rows of a run directory, on the device of the masks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mpdiag.matching import Target
from mpdiag.metrics.layer_iou import adjacent_overlap
from mpdiag.metrics.utilization import utilization
from mpdiag.ops import cell_centers, sample_masks


@dataclass(frozen=True, slots=True)
class ImageRows:
    """Numbers of one image with G objects, on the CPU; (L + 1, N) unless said otherwise.

    Attributes:
        intersection: (L, N) cells shared with the layer before.
        area: cells of the mask.
        matched_gt: V^i, -1 for none.
        best_gt: GT of the highest IoU, -1 if no GT overlaps.
        best_gt_iou: that IoU, 0 if none.
        matched_gt_iou: IoU with the matched GT, NaN if unmatched.
        label: class with the highest probability, no-object aside.
        score: that probability.
        gt_area: (G,) cells of each GT on the predictions' grid.
        util: (L + 1,), NaN without GT.
        masks: (L + 1, N, h, w) bool over the valid area, on the device.
        gt_masks: (G, h, w) bool over the valid area, on the device.
    """

    intersection: Tensor
    area: Tensor
    matched_gt: Tensor
    best_gt: Tensor
    best_gt_iou: Tensor
    matched_gt_iou: Tensor
    label: Tensor
    score: Tensor
    gt_area: Tensor
    util: Tensor
    masks: Tensor
    gt_masks: Tensor


@torch.no_grad()
def image_rows(
    class_logits: Tensor,
    mask_logits: Tensor,
    target: Target,
    assignment: Tensor,
    valid: tuple[int, int],
) -> ImageRows:
    """Measure one image.

    Args:
        class_logits: (L + 1, N, K + 1).
        mask_logits: (L + 1, N, h, w).
        target: its GT, masks over the padded extent.
        assignment: (L + 1, N), V^i.
        valid: rows and columns of the grid that the unpadded image covers.
    """
    rows, columns = valid
    masks = (mask_logits > 0)[..., :rows, :columns]
    gt_masks = gt_on_grid(target["masks"], mask_logits.shape[-2], mask_logits.shape[-1])
    gt_masks = gt_masks[:, :rows, :columns]
    intersection, area = adjacent_overlap(masks)
    gt_area = gt_masks.flatten(1).sum(1)
    # Cells are counted in float32, which is exact below 2^24 cells.
    overlap = torch.einsum(
        "lns,gs->lng", masks.flatten(2).to(torch.float32), gt_masks.flatten(1).to(torch.float32)
    ).double()
    iou = overlap / (area[..., None] + gt_area - overlap).clamp(min=1)
    label, score = _top_class(class_logits)
    matched = assignment.to(masks.device)
    if len(gt_area):
        best_iou, best = iou.max(-1)
        best = torch.where(best_iou > 0, best, -1)
        own = iou.gather(-1, matched.clamp(min=0)[..., None])[..., 0]
        own = torch.where(matched >= 0, own, torch.nan)
    else:
        best_iou, best = torch.zeros_like(score), torch.full_like(label, -1)
        own = torch.full_like(score, torch.nan)
    return ImageRows(
        intersection=intersection.cpu(),
        area=area.cpu(),
        matched_gt=assignment.cpu(),
        best_gt=best.cpu(),
        best_gt_iou=best_iou.cpu(),
        matched_gt_iou=own.cpu(),
        label=label.cpu(),
        score=score.cpu(),
        gt_area=gt_area.cpu(),
        util=utilization(assignment, len(gt_area)),
        masks=masks,
        gt_masks=gt_masks,
    )


def gt_on_grid(masks: Tensor, height: int, width: int) -> Tensor:
    """(G, H, W) GT masks on a coarser grid; a cell is set where its centre reads >= 0.5."""
    if not len(masks):
        return masks.new_zeros(0, height, width)
    centers = cell_centers(height, width, masks.device)
    read = sample_masks(masks, torch.arange(len(masks), device=masks.device), centers)
    return (read >= 0.5).view(-1, height, width)


def _top_class(class_logits: Tensor) -> tuple[Tensor, Tensor]:
    score, label = class_logits.float().softmax(-1)[..., :-1].max(-1)
    return label, score.double()
