"""Hungarian matching of predictions to ground truth, all layers of a batch at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mpdiag.errors import NonFiniteError
from mpdiag.ops import cell_centers, sample_logits, sample_masks


class Target(TypedDict):
    """Ground truth of one image, as the field's set-prediction code keeps it.

    `labels` is (G,) int64, the contiguous class index. `masks` is (G, H, W) bool over the padded
    image; its resolution may differ from the predictions', its extent may not.
    """

    labels: Tensor
    masks: Tensor


@dataclass(frozen=True, slots=True)
class MatchingCosts:
    """Weights of the matching cost; Mask2Former's values."""

    class_: float = 2.0
    mask: float = 5.0
    dice: float = 5.0


@torch.no_grad()
def match(
    class_logits: Tensor,
    mask_logits: Tensor,
    targets: Sequence[Target],
    *,
    costs: MatchingCosts | None = None,
    points: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    """Match every layer's queries to the ground truth (V^i of Eq. 2, for i = 0..L).

    Args:
        class_logits: (L + 1, B, N, K + 1), no-object last.
        mask_logits: (L + 1, B, N, h, w).
        targets: ground truth of the B images.
        costs: weights of the three terms.
        points: (P, 2) where masks are compared; every cell of the predictions if None.
        groups: (B, N) group of each query, -1 for queries that take no part; each group is
            matched to all GT by itself. One group if None.

    Returns:
        (L + 1, B, N) int64 on the CPU: GT index, or -1 for none. With more GT than queries
        every query is matched and the costliest GT stay without.

    Raises:
        NonFiniteError: a cost is not finite; names term, layer and image of the batch.
    """
    terms = _cost_terms(class_logits, mask_logits, targets, points)
    costs = costs or MatchingCosts()
    table = _total(terms, costs).cpu().numpy()  # the one transfer from the device
    layers, batch, queries = table.shape[:3]
    members = np.zeros((batch, queries), dtype=np.int64) if groups is None else groups.cpu().numpy()
    assignment = np.full((layers, batch, queries), -1, dtype=np.int64)
    for image, target in enumerate(targets):
        count = len(target["labels"])
        parts = [np.flatnonzero(members[image] == g) for g in range(members[image].max() + 1)]
        for layer in range(layers if count else 0):
            block = table[layer, image, :, :count]
            # Found here, since a maximum taken of it would hide it.
            if not np.isfinite(block).all():
                finite = {name: x[layer, image, :, :count].isfinite() for name, x in terms.items()}
                term = next((name for name, x in finite.items() if not x.all()), "total")
                raise NonFiniteError(f"{term} cost of matching", layer, image)
            for part in parts:
                query, gt = linear_sum_assignment(block[part])
                assignment[layer, image, part[query]] = gt
    return torch.from_numpy(assignment)


def matching_cost(
    class_logits: Tensor,
    mask_logits: Tensor,
    targets: Sequence[Target],
    costs: MatchingCosts,
    points: Tensor | None,
) -> Tensor:
    """Cost of every layer, image, query and GT: (L + 1, B, N, G_max) float32.

    Columns past an image's own number of GT hold nothing of meaning.
    """
    return _total(_cost_terms(class_logits, mask_logits, targets, points), costs)


def _total(terms: dict[str, Tensor], costs: MatchingCosts) -> Tensor:
    return costs.class_ * terms["class"] + costs.mask * terms["mask"] + costs.dice * terms["dice"]


def _cost_terms(
    class_logits: Tensor, mask_logits: Tensor, targets: Sequence[Target], points: Tensor | None
) -> dict[str, Tensor]:
    """Unweighted terms of the cost, each (L + 1, B, N, G_max) float32.

    Mask2Former's matcher: minus the probability of the GT's class, binary cross-entropy averaged
    over the points, and dice with 1 added above and below.
    """
    layers, batch, queries, height, width = mask_logits.shape
    device = mask_logits.device
    if points is None:
        logits = mask_logits.flatten(3).float()
        points = cell_centers(height, width, device)
    else:
        points = points.to(device)
        logits = sample_logits(mask_logits.flatten(0, 1).float(), points)
        logits = logits.unflatten(0, (layers, batch))
    most = max((len(target["labels"]) for target in targets), default=0)
    labels = torch.zeros(batch, most, dtype=torch.int64, device=device)
    truth = torch.zeros(batch, most, len(points), device=device)
    for image, target in enumerate(targets):
        count = len(target["labels"])
        labels[image, :count] = target["labels"]
        if count:
            every = torch.arange(count, device=device)
            truth[image, :count] = sample_masks(target["masks"], every, points)

    probability = class_logits.float().softmax(-1)
    class_cost = -probability.gather(3, labels[None, :, None].expand(layers, -1, queries, -1))
    # BCE(x, t) = softplus(x) - x t, so that one product with t serves all GT.
    cross_entropy = F.softplus(logits).sum(-1, keepdim=True) - torch.einsum(
        "lbnp,bgp->lbng", logits, truth
    )
    sigmoid = logits.sigmoid()
    overlap = torch.einsum("lbnp,bgp->lbng", sigmoid, truth)
    total = sigmoid.sum(-1, keepdim=True) + truth.sum(-1)[None, :, None]
    dice_cost = 1 - (2 * overlap + 1) / (total + 1)
    return {"class": class_cost, "mask": cross_entropy / len(points), "dice": dice_cost}
