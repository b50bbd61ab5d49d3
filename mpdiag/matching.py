"""Hungarian matching of predictions to ground truth, all layers of a batch at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mpdiag.errors import NonFiniteError
from mpdiag.ops import cell_centers, point_sums, sample_masks


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
    cost = matching_cost(class_logits, mask_logits, targets, costs or MatchingCosts(), points)
    table = cost.cpu().numpy()  # the one transfer from the device
    for image, target in enumerate(targets):
        count = len(target["labels"])
        # Found here, since a maximum taken of it would hide it.
        broken = ~np.isfinite(table[:, image, :, :count]).all((1, 2))
        if broken.any():
            layer = int(broken.argmax())
            terms = _cost_terms(class_logits, mask_logits, targets, points)
            finite = {name: x[layer, image, :, :count].isfinite() for name, x in terms.items()}
            term = next((name for name, x in finite.items() if not x.all()), "total")
            raise NonFiniteError(f"{term} cost of matching", layer, image)
    members = np.zeros(table.shape[1:3], dtype=np.int64) if groups is None else groups.cpu().numpy()
    return _assign(table, targets, members)


@dataclass(frozen=True, slots=True)
class Matches:
    """A match with what its pairs cost; each (L + 1, B, N), on the CPU.

    Attributes:
        assignment: V^i, as `match` gives it.
        class_cost: weight times (1 - probability of the GT's class): 0 is the best, where the
            matcher's own term has -1. float32, NaN where unmatched, as all that follows.
        mask_cost: weighted cross-entropy.
        dice_cost: weighted dice loss.
        margin: least cost of the matched GT with any other query, minus its cost here. Below 0
            where the GT had to leave its cheapest query to another; NaN with one query.
    """

    assignment: Tensor
    class_cost: Tensor
    mask_cost: Tensor
    dice_cost: Tensor
    margin: Tensor


def finite_queries(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """(L + 1, B, N) bool: which predictions hold neither NaN nor infinity, in class or mask."""
    total = mask_logits.sum((-2, -1), dtype=torch.float32) + class_logits.float().sum(-1)
    return total.isfinite()


@torch.no_grad()
def match_finite(
    class_logits: Tensor,
    mask_logits: Tensor,
    targets: Sequence[Target],
    finite: Tensor,
    *,
    costs: MatchingCosts | None = None,
    points: Tensor | None = None,
) -> Matches:
    """As `match`, with the costs of all pairs; what is not `finite` matches none.

    Args:
        class_logits, mask_logits, targets, costs, points: as `match` takes them.
        finite: (L + 1, B, N) bool, from `finite_queries`.
    """
    costs = costs or MatchingCosts()
    terms = _cost_terms(class_logits, mask_logits, targets, points)
    total = _total(terms, costs).masked_fill(~finite[..., None], torch.inf)
    assignment = _assign(total.cpu().numpy(), targets, np.where(finite.cpu().numpy(), 0, -1))
    gt = assignment.to(total.device)
    if not total.shape[-1]:
        return Matches(assignment, *torch.full((4, *gt.shape), torch.nan))
    at = gt.clamp(min=0)[..., None]
    taken = torch.zeros_like(total, dtype=torch.bool).scatter_(-1, at, (gt >= 0)[..., None])
    others = total.masked_fill(taken, torch.inf).amin(2, keepdim=True).expand_as(total)
    weighted = (
        costs.class_ * (1 + terms["class"]),
        costs.mask * terms["mask"],
        costs.dice * terms["dice"],
        others - total,
    )
    values = torch.stack([term.gather(-1, at)[..., 0] for term in weighted])
    return Matches(assignment, *values.masked_fill((gt < 0) | values.isinf(), torch.nan).cpu())


def _assign(
    table: npt.NDArray[np.floating], targets: Sequence[Target], members: npt.NDArray[np.integer]
) -> Tensor:
    """The cheapest assignment of every layer, image and group of a cost table (L + 1, B, N, G).

    `members` is the group of each query, (B, N) or (L + 1, B, N); -1 takes no part.
    """
    layers, batch, queries = table.shape[:3]
    members = np.broadcast_to(members, (layers, batch, queries))
    assignment = np.full((layers, batch, queries), -1, dtype=np.int64)
    for image, target in enumerate(targets):
        count = len(target["labels"])
        for layer in range(layers if count else 0):
            group = members[layer, image]
            for number in range(group.max() + 1):
                part = np.flatnonzero(group == number)
                query, gt = linear_sum_assignment(table[layer, image, part, :count])
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
    points = None if points is None else points.to(device)
    places = cell_centers(height, width, device) if points is None else points
    most = max((len(target["labels"]) for target in targets), default=0)
    labels = torch.zeros(batch, most, dtype=torch.int64, device=device)
    truth = torch.zeros(batch, most, len(places), device=device)
    for image, target in enumerate(targets):
        count = len(target["labels"])
        labels[image, :count] = target["labels"]
        if count:
            every = torch.arange(count, device=device)
            truth[image, :count] = sample_masks(target["masks"], every, places)

    probability = class_logits.float().softmax(-1)
    class_cost = -probability.gather(3, labels[None, :, None].expand(layers, -1, queries, -1))
    # BCE(x, t) = softplus(x) - x t, so that one product with t serves all GT.
    sums = point_sums(mask_logits, truth, points)
    cross_entropy = sums.softplus[..., None] - sums.logit_truth
    total = sums.sigmoid[..., None] + truth.sum(-1)[None, :, None]
    dice_cost = 1 - (2 * sums.sigmoid_truth + 1) / (total + 1)
    return {"class": class_cost, "mask": cross_entropy / len(places), "dice": dice_cost}
