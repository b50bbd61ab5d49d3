"""Naive baseline of layer IoU and matching of one image, and the same by mpdiag.

The baseline loops over layers and queries in NumPy and calls the matcher of the official
Mask2Former (`mask2former/modeling/matcher.py`) for each layer.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mpdiag.matching import MatchingCosts, Target, finite_queries, match_with_costs
from mpdiag.metrics import image_rows
from mpdiag.ops import seeded_points

POINTS = 12544


@dataclass(frozen=True, slots=True)
class IouAndMatches:
    """Results of either implementation.

    Attributes:
        iou: (L, N) IoU with the previous layer, NaN between empty masks.
        assignment: (L + 1, N) V^i.
    """

    iou: Tensor
    assignment: Tensor

    def equals(self, other: "IouAndMatches") -> bool:
        """Return whether all numbers are equal; the IoU must be equal in all bits."""
        same = torch.equal(self.iou.nan_to_num(-1), other.iou.nan_to_num(-1))
        return same and torch.equal(self.assignment, other.assignment)


def mpdiag_analysis(class_logits: Tensor, mask_logits: Tensor, target: Target) -> IouAndMatches:
    """Compute all rows of one image as `mpdiag analyze` does.

    Args:
        class_logits: (L + 1, 1, N, K + 1).
        mask_logits: (L + 1, 1, N, h, w).
        target: GT of the image.
    """
    points = seeded_points(POINTS, 0).to(mask_logits.device)
    finite = finite_queries(class_logits, mask_logits)
    matches = match_with_costs(class_logits, mask_logits, [target], finite, points=points)
    rows = image_rows(
        class_logits[:, 0],
        mask_logits[:, 0],
        target,
        matches.assignment[:, 0],
        (mask_logits.shape[-2], mask_logits.shape[-1]),
        finite=finite[:, 0],
    )
    union = rows.area[:-1] + rows.area[1:] - rows.intersection
    return IouAndMatches(rows.intersection.double() / union, rows.matched_gt)


def naive_analysis(class_logits: Tensor, mask_logits: Tensor, target: Target) -> IouAndMatches:
    """Compute the naive baseline; see `mpdiag_analysis` for the arguments."""
    masks = mask_logits[:, 0].cpu().numpy() > 0
    layers, queries = masks.shape[:2]
    iou = np.full((layers - 1, queries), np.nan)
    for layer in range(1, layers):
        for query in range(queries):
            previous, current = masks[layer - 1, query], masks[layer, query]
            union = np.logical_or(previous, current).sum()
            if union:
                iou[layer - 1, query] = np.logical_and(previous, current).sum() / union
    assignment = torch.full((layers, queries), -1)
    for layer in range(layers):
        chosen, gt = _official_matcher(class_logits[layer, 0], mask_logits[layer, 0], target)
        assignment[layer, chosen] = gt
    return IouAndMatches(torch.from_numpy(iou), assignment)


def _official_matcher(
    class_logits: Tensor, mask_logits: Tensor, target: Target
) -> tuple[Tensor, Tensor]:
    """Match one layer as the official matcher, but at seeded points; returns queries and GT."""
    weights, device = MatchingCosts(), mask_logits.device
    points = seeded_points(POINTS, 0).to(device)
    class_cost = -class_logits.softmax(-1)[:, target["labels"]]

    def sample(maps: Tensor) -> Tensor:
        grid = (2 * points - 1).expand(len(maps), 1, -1, -1)
        return F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, 0]

    truth, logits = sample(target["masks"].float()), sample(mask_logits)
    positive = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits), reduction="none")
    negative = F.binary_cross_entropy_with_logits(
        logits, torch.zeros_like(logits), reduction="none"
    )
    mask_cost = (positive @ truth.T + negative @ (1 - truth).T) / POINTS
    probability = logits.sigmoid()
    overlap = 2 * probability @ truth.T
    dice_cost = 1 - (overlap + 1) / (probability.sum(-1)[:, None] + truth.sum(-1) + 1)
    cost = weights.class_ * class_cost + weights.mask * mask_cost + weights.dice * dice_cost
    query, gt = linear_sum_assignment(cost.cpu().numpy())
    return torch.from_numpy(query), torch.from_numpy(gt)
