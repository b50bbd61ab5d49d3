"""Hungarian matching of the predictions of all layers to ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mpdiag.errors import NonFiniteError
from mpdiag.ops import cell_centers, point_sums, sample_masks, seeded_points, to_cpu, to_device


class Target(TypedDict):
    """Ground truth of one image, in the format of DETR.

    Attributes:
        labels: (G,) int64 contiguous class index.
        masks: (G, H, W) bool over the padded image, at any resolution.
    """

    labels: Tensor
    masks: Tensor


@dataclass(frozen=True, slots=True)
class MatchingCosts:
    """Weights of the matching cost, by default those of Mask2Former."""

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
    """Match the queries of every layer to the ground truth (V^i of Eq. 2, i = 0..L).

    Args:
        class_logits: (L + 1, B, N, K + 1), no-object last.
        mask_logits: (L + 1, B, N, h, w).
        targets: GT of the B images.
        costs: weights of the three terms.
        points: (P, 2) points at which masks are compared; all cells of the predictions if None.
        groups: (B, N) group of each query, -1 to exclude it. Each group is matched to all GT
            separately. One group if None.

    Returns:
        (L + 1, B, N) int64 GT index or -1, on the CPU. If there are more GT than queries, every
        query is matched and the GT with the highest cost are not.

    Raises:
        NonFiniteError: a cost is not finite; it names term, layer and image of the batch.
    """
    cost = matching_cost(class_logits, mask_logits, targets, costs or MatchingCosts(), points)
    table = cost.cpu().numpy()  # the only transfer from the device
    for image, target in enumerate(targets):
        count = len(target["labels"])
        broken = ~np.isfinite(table[:, image, :, :count]).all((1, 2))
        if broken.any():
            layer = int(broken.argmax())
            terms = _cost_terms(class_logits, mask_logits, targets, points)
            finite = {name: x[layer, image, :, :count].isfinite() for name, x in terms.items()}
            term = next((name for name, x in finite.items() if not x.all()), "total")
            raise NonFiniteError(f"{term} cost of matching", layer, image)
    group_ids = np.zeros(table.shape[1:3], np.int64) if groups is None else groups.cpu().numpy()
    return _assign(table, targets, group_ids)


@dataclass(frozen=True, slots=True)
class Matches:
    """An assignment with the costs of its pairs, each (L + 1, B, N) on the CPU.

    Costs are float32 and NaN for unmatched queries.

    Attributes:
        assignment: V^i, as returned by `match`.
        class_cost: weight times (1 - probability of the GT class), so the best value is 0.
        mask_cost: weighted cross-entropy.
        dice_cost: weighted dice loss.
        margin: lowest total cost of the GT with any other query, minus that of the pair. It is
            negative if another GT took the cheapest query, and NaN with one query.
    """

    assignment: Tensor
    class_cost: Tensor
    mask_cost: Tensor
    dice_cost: Tensor
    margin: Tensor

    def image(self, index: int) -> "Matches":
        """Return the matches of an image of the batch, (L + 1, N) each."""
        return Matches(*(getattr(self, field.name)[:, index] for field in fields(self)))


def finite_queries(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Return (L + 1, B, N) bool: which predictions have only finite class and mask logits."""
    total = mask_logits.sum((-2, -1), dtype=torch.float32) + class_logits.float().sum(-1)
    return total.isfinite()


@torch.no_grad()
def match_with_costs(
    class_logits: Tensor,
    mask_logits: Tensor,
    targets: Sequence[Target],
    finite: Tensor,
    *,
    costs: MatchingCosts | None = None,
    points: Tensor | None = None,
) -> Matches:
    """Match as `match` and return the costs of all pairs; exclude queries that are not finite.

    Args:
        class_logits, mask_logits, targets, costs, points: see `match`.
        finite: (L + 1, B, N) bool, from `finite_queries`.
    """
    costs = costs or MatchingCosts()
    terms = _cost_terms(class_logits, mask_logits, targets, points)
    total = _total(terms, costs).masked_fill(~finite[..., None], torch.inf)
    table, known = to_cpu(total, finite)
    assignment = _assign(table.numpy(), targets, np.where(known.numpy(), 0, -1))
    if not total.shape[-1]:
        return Matches(assignment, *torch.full((4, *assignment.shape), torch.nan))
    gt = to_device(assignment, total.device)
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


@dataclass(frozen=True, slots=True)
class Matcher:
    """`match_with_costs` with the same costs and points for all images, layers and steps."""

    costs: MatchingCosts
    points: Tensor | None

    @classmethod
    def on_fixed_points(cls, costs: MatchingCosts, count: int | Literal["all"]) -> "Matcher":
        """Compare masks at `count` random points that are always the same, or at all cells."""
        return cls(costs, None if count == "all" else seeded_points(count, 0))

    def __call__(
        self, class_logits: Tensor, mask_logits: Tensor, targets: Sequence[Target], finite: Tensor
    ) -> Matches:
        """Match; see `match_with_costs`."""
        return match_with_costs(
            class_logits, mask_logits, targets, finite, costs=self.costs, points=self.points
        )


def _assign(
    table: npt.NDArray[np.floating], targets: Sequence[Target], group_ids: npt.NDArray[np.integer]
) -> Tensor:
    """Solve the assignment of each layer, image and group of a cost table (L + 1, B, N, G).

    `group_ids` is the group of each query, (B, N) or (L + 1, B, N), -1 to exclude it.
    """
    layers, batch, queries = table.shape[:3]
    group_ids = np.broadcast_to(group_ids, (layers, batch, queries))
    assignment = np.full((layers, batch, queries), -1, dtype=np.int64)
    for image, target in enumerate(targets):
        count = len(target["labels"])
        for layer in range(layers if count else 0):
            group = group_ids[layer, image]
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
    """Return the (L + 1, B, N, G_max) float32 cost of every layer, image, query and GT.

    Columns beyond an image's number of GT are undefined.
    """
    return _total(_cost_terms(class_logits, mask_logits, targets, points), costs)


def _total(terms: dict[str, Tensor], costs: MatchingCosts) -> Tensor:
    return costs.class_ * terms["class"] + costs.mask * terms["mask"] + costs.dice * terms["dice"]


def _cost_terms(
    class_logits: Tensor, mask_logits: Tensor, targets: Sequence[Target], points: Tensor | None
) -> dict[str, Tensor]:
    """Return the unweighted terms of the cost, each (L + 1, B, N, G_max) float32.

    As Mask2Former's matcher: minus the probability of the GT class, binary cross-entropy averaged
    over points, and dice loss with 1 added to numerator and denominator.
    """
    layers, batch, queries, height, width = mask_logits.shape
    device = mask_logits.device
    points = None if points is None else to_device(points, device)
    centers = cell_centers(height, width, device) if points is None else points
    num_gt = max((len(target["labels"]) for target in targets), default=0)
    labels = torch.zeros(batch, num_gt, dtype=torch.int64, device=device)
    truth = torch.zeros(batch, num_gt, len(centers), device=device)
    for image, target in enumerate(targets):
        count = len(target["labels"])
        labels[image, :count] = target["labels"]
        if count:
            index = torch.arange(count, device=device)
            truth[image, :count] = sample_masks(target["masks"], index, centers)

    probability = class_logits.float().softmax(-1)
    class_cost = -probability.gather(3, labels[None, :, None].expand(layers, -1, queries, -1))
    # BCE(x, t) = softplus(x) - x t, so one matrix product with t computes it for all GT.
    sums = point_sums(mask_logits, truth, points)
    cross_entropy = sums.softplus[..., None] - sums.logit_truth
    total = sums.sigmoid[..., None] + truth.sum(-1)[None, :, None]
    dice_cost = 1 - (2 * sums.sigmoid_truth + 1) / (total + 1)
    return {"class": class_cost, "mask": cross_entropy / len(centers), "dice": dice_cost}
