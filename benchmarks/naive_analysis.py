"""IoU between layers and matching of one image: by the toolkit, and as one would write them down.

The plain way is NumPy for each layer and query, and Mask2Former's published matcher
(`mask2former/modeling/matcher.py`) called layer by layer.
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
class Measured:
    """IoU with the layer before (L, N), NaN between empty masks, and V^i (L + 1, N)."""

    iou: Tensor
    assignment: Tensor

    def equals(self, other: "Measured") -> bool:
        """Whether all numbers are the same, the bits of the IoU too."""
        same = torch.equal(self.iou.nan_to_num(-1), other.iou.nan_to_num(-1))
        return same and torch.equal(self.assignment, other.assignment)


def by_toolkit(class_logits: Tensor, mask_logits: Tensor, target: Target) -> Measured:
    """As `mpdiag analyze` does, with all else that a run's rows hold.

    Args:
        class_logits: (L + 1, 1, N, K + 1).
        mask_logits: (L + 1, 1, N, h, w).
        target: GT of the image.
    """
    points = seeded_points(POINTS, 0).to(mask_logits.device)
    finite = finite_queries(class_logits, mask_logits)
    found = match_with_costs(class_logits, mask_logits, [target], finite, points=points)
    rows = image_rows(
        class_logits[:, 0],
        mask_logits[:, 0],
        target,
        found.assignment[:, 0],
        (mask_logits.shape[-2], mask_logits.shape[-1]),
        finite=finite[:, 0],
    )
    union = rows.area[:-1] + rows.area[1:] - rows.intersection
    return Measured(rows.intersection.double() / union, rows.matched_gt)


def plainly(class_logits: Tensor, mask_logits: Tensor, target: Target) -> Measured:
    """The same arguments, the plain way."""
    masks = mask_logits[:, 0].cpu().numpy() > 0
    layers, queries = masks.shape[:2]
    iou = np.full((layers - 1, queries), np.nan)
    for layer in range(1, layers):
        for query in range(queries):
            before, here = masks[layer - 1, query], masks[layer, query]
            union = np.logical_or(before, here).sum()
            if union:
                iou[layer - 1, query] = np.logical_and(before, here).sum() / union
    assignment = torch.full((layers, queries), -1)
    for layer in range(layers):
        chosen, gt = _published_matcher(class_logits[layer, 0], mask_logits[layer, 0], target)
        assignment[layer, chosen] = gt
    return Measured(torch.from_numpy(iou), assignment)


def _published_matcher(
    class_logits: Tensor, mask_logits: Tensor, target: Target
) -> tuple[Tensor, Tensor]:
    """Queries of one layer and the GT that each is matched to; the points are ours, not random."""
    weights, device = MatchingCosts(), mask_logits.device
    points = seeded_points(POINTS, 0).to(device)
    class_cost = -class_logits.softmax(-1)[:, target["labels"]]

    def read(maps: Tensor) -> Tensor:
        grid = (2 * points - 1).expand(len(maps), 1, -1, -1)
        return F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, 0]

    truth, logits = read(target["masks"].float()), read(mask_logits)
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
