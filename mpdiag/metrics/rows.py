"""Measurements of one image for the rows of a run directory, on the device of the masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mpdiag.matching import Target
from mpdiag.metrics.utilization import utilization
from mpdiag.ops import cell_centers, mask_overlaps, sample_masks, to_cpu, to_device


@dataclass(frozen=True, slots=True)
class ImageRows:
    """Measurements of one image with G GT, on the CPU; (L + 1, N) unless noted.

    Attributes:
        intersection: (L, N) cells shared with the layer before.
        area: cells of the mask.
        matched_gt: V^i, -1 for none.
        best_gt: GT of the highest IoU, -1 if no GT overlaps.
        best_gt_iou: IoU with `best_gt`, 0 if none.
        matched_gt_iou: IoU with the matched GT, NaN if unmatched.
        label: class with the highest probability, except no-object.
        score: probability of `label`.
        finite: False if class or mask contains NaN or infinity; other values are then undefined.
        second_coverage: second highest share of a GT's cells that the mask covers, 0 if none.
        fed_gt_iou: IoU with the GT from which the query was made; None in the matching part.
        center: (L + 1, N, 2) mean x and y of the mask's cells as fractions of the valid width and
            height; NaN for an empty mask.
        gt_area: (G,) cells of each GT on the predictions' grid.
        gt_covered: (G,) share of the cells of the GT's box that other GT cover.
        best_query: (L + 1, G) query of the highest IoU with the GT, -1 if none overlaps.
        best_query_iou: (L + 1, G) IoU with `best_query`, 0 if none.
        util: (L + 1,), NaN without GT.
        mask_logits: (L + 1, N, h, w) over the valid area, on the device.
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
    finite: Tensor
    second_coverage: Tensor
    fed_gt_iou: Tensor | None
    center: Tensor
    gt_area: Tensor
    gt_covered: Tensor
    best_query: Tensor
    best_query_iou: Tensor
    util: Tensor
    mask_logits: Tensor
    gt_masks: Tensor

    def masks(self, queries: Sequence[int]) -> Tensor:
        """Return (L + 1, Q, h, w) bool masks of some queries; non-finite masks are empty."""
        selected = torch.tensor(queries, dtype=torch.int64)
        device = self.mask_logits.device
        logits = self.mask_logits[:, to_device(selected, device)]
        return (logits > 0) & to_device(self.finite[:, selected], device)[..., None, None]


@torch.no_grad()
def image_rows(
    class_logits: Tensor,
    mask_logits: Tensor,
    target: Target,
    assignment: Tensor,
    valid: tuple[int, int],
    *,
    finite: Tensor | None = None,
    fed_gt: Tensor | None = None,
) -> ImageRows:
    """Return the measurements of one image.

    Args:
        class_logits: (L + 1, N, K + 1).
        mask_logits: (L + 1, N, h, w).
        target: GT of the image, with masks over the padded area.
        assignment: (L + 1, N), V^i.
        valid: rows and columns of the grid that the unpadded image covers.
        finite: (L + 1, N) bool, False for predictions with NaN or infinity; all finite if None.
        fed_gt: (N,) GT from which each query of the MP part was made.
    """
    rows, columns = valid
    known = mask_logits.new_ones(mask_logits.shape[:2], dtype=torch.bool)
    finite = known if finite is None else to_device(finite, mask_logits.device)
    gt_masks = gt_on_grid(target["masks"], mask_logits.shape[-2], mask_logits.shape[-1])
    gt_masks = gt_masks[:, :rows, :columns]
    gt_area = gt_masks.flatten(1).sum(1)
    planes, weights = coordinate_planes(rows, columns, mask_logits.device)
    area, intersection, shared = mask_overlaps(mask_logits, torch.cat([gt_masks, planes]), finite)
    overlap, of_planes = shared.double().split([len(gt_masks), len(planes)], dim=-1)
    iou = overlap / (area[..., None] + gt_area - overlap).clamp(min=1)
    label, score = _top_class(class_logits)
    best, best_iou = _highest(iou, -1)
    best_query, best_query_iou = _highest(iou, -2)
    measured = {
        "intersection": intersection,
        "area": area,
        "best_gt": best,
        "best_gt_iou": best_iou,
        "matched_gt_iou": _iou_with(iou, to_device(assignment, iou.device)),
        "label": label,
        "score": score,
        "finite": finite,
        "second_coverage": _second_coverage(overlap, gt_area),
        "center": of_planes @ weights / area[..., None],
        "gt_area": gt_area,
        "gt_covered": covered_by_others(gt_masks),
        "best_query": best_query,
        "best_query_iou": best_query_iou,
    }
    if fed_gt is not None:
        measured["fed_gt_iou"] = _iou_with(iou, to_device(fed_gt, iou.device))
    on_cpu = dict(zip(measured, to_cpu(*measured.values()), strict=True))
    fed_gt_iou = on_cpu.pop("fed_gt_iou", None)
    return ImageRows(
        **on_cpu,
        fed_gt_iou=fed_gt_iou,
        matched_gt=assignment.cpu(),
        util=utilization(assignment, len(gt_area)),
        mask_logits=mask_logits[..., :rows, :columns],
        gt_masks=gt_masks,
    )


def coordinate_planes(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return masks whose intersections with a mask give the exact sums of its coordinates.

    Each plane is set where one bit of the column or row index is set. The last plane is set
    everywhere; it adds the half cell from a cell's corner to its centre.

    Returns:
        planes (P, rows, columns) bool, and weights (P, 2) float64. The intersections of a mask with
        the planes, times the weights, are the sums of x and y (0..1) over its cells.
    """
    x, y = torch.arange(columns, device=device), torch.arange(rows, device=device)
    planes, weights = [], []
    for axis, (place, size) in enumerate(((x[None, :], columns), (y[:, None], rows))):
        for bit in range((size - 1).bit_length()):
            planes.append((place >> bit & 1).bool().expand(rows, columns))
            weights.append([(axis == k) * 2**bit / size for k in (0, 1)])
    planes.append(torch.ones(rows, columns, dtype=torch.bool, device=device))
    weights.append([0.5 / columns, 0.5 / rows])
    return torch.stack(planes), to_device(torch.tensor(weights, dtype=torch.float64), device)


def covered_by_others(masks: Tensor) -> Tensor:
    """Return the share of each mask's box that other masks cover: (G, h, w) -> (G,) float64.

    It approximates occlusion, which modal annotations do not give (OVIS, Qi et al., IJCV 2022,
    uses the overlap of boxes). 0 for an empty mask.
    """
    box = _spanned(masks.any(2))[:, :, None] & _spanned(masks.any(1))[:, None, :]
    others = masks.sum(0) - masks.long() > 0
    return (box & others).sum((1, 2)).double() / box.sum((1, 2)).clamp(min=1)


def _spanned(line: Tensor) -> Tensor:
    """Return (G, s) bool that is True from the first True of each row to the last."""
    after = line.long().cummax(1).values.bool()
    before = line.long().flip(1).cummax(1).values.flip(1).bool()
    return after & before


def _highest(iou: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return index (-1 if nothing overlaps) and value of the highest IoU along a dimension."""
    if not iou.shape[dim]:
        shape = iou.sum(dim).shape
        return iou.new_full(shape, -1, dtype=torch.int64), iou.new_zeros(shape)
    value, position = iou.max(dim)
    return torch.where(value > 0, position, -1), value


def _iou_with(iou: Tensor, gt: Tensor) -> Tensor:
    """Return the IoU (L + 1, N) with one GT per query, from (L + 1, N, G); NaN where it is -1."""
    if not iou.shape[-1]:
        return iou.new_full(iou.shape[:2], torch.nan)
    gt = gt.expand(iou.shape[:2])
    own = iou.gather(-1, gt.clamp(min=0)[..., None])[..., 0]
    return torch.where(gt >= 0, own, torch.nan)


def _second_coverage(overlap: Tensor, gt_area: Tensor) -> Tensor:
    if len(gt_area) < 2:
        return overlap.new_zeros(overlap.shape[:2])
    return (overlap / gt_area.clamp(min=1)).topk(2).values[..., 1]


def gt_on_grid(masks: Tensor, height: int, width: int) -> Tensor:
    """Return (G, H, W) GT masks on a coarser grid; a cell is set if its centre samples >= 0.5."""
    if not len(masks):
        return masks.new_zeros(0, height, width)
    centers = cell_centers(height, width, masks.device)
    read = sample_masks(masks, torch.arange(len(masks), device=masks.device), centers)
    return (read >= 0.5).view(-1, height, width)


def _top_class(class_logits: Tensor) -> tuple[Tensor, Tensor]:
    score, label = class_logits.float().softmax(-1)[..., :-1].max(-1)
    return label, score.double()
