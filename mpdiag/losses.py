"""Class, mask and dice losses of every layer of one part, matching or piloted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.matching import Target
from mpdiag.ops import cell_centers, mask_losses, sample_logits, sample_masks


@dataclass(slots=True)
class SetLosses:
    """Unweighted losses of layers 0..L, each of shape (L + 1,)."""

    class_: Tensor
    mask: Tensor
    dice: Tensor


class PointPicker(Protocol):
    """Chooses where the matched masks are compared with their GT."""

    def __call__(self, logits: Tensor, image: Tensor) -> Tensor:
        """(R, h, w) logits of matched masks and, on the CPU, (R,) their images -> (R, P, 2)."""


@dataclass(frozen=True, slots=True)
class UncertainPoints:
    """PointRend's importance sampling, as Mask2Former trains with.

    Of `oversample` x `count` random points, the `importance` x `count` with the logit nearest zero
    are kept; fresh random points fill the rest. Each image draws from a stream of its own, so that
    a batch may be taken in parts.
    """

    streams: Sequence[torch.Generator]
    count: int = 12544
    oversample: float = 3.0
    importance: float = 0.75

    def __call__(self, logits: Tensor, image: Tensor) -> Tensor:
        kept = int(self.importance * self.count)
        candidates = self._random(image, int(self.oversample * self.count), logits.device)
        uncertainty = -sample_logits(logits[:, None], candidates)[:, 0].abs()
        best = uncertainty.topk(kept, dim=1).indices
        chosen = candidates.gather(1, best[..., None].expand(-1, -1, 2))
        return torch.cat([chosen, self._random(image, self.count - kept, logits.device)], dim=1)

    def _random(self, image: Tensor, count: int, device: torch.device) -> Tensor:
        points = torch.empty(len(image), count, 2, device=device)
        for index, stream in enumerate(self.streams):
            rows = (image == index).nonzero()[:, 0].to(device)
            points[rows] = torch.rand(
                len(rows), count, 2, generator=stream, device=stream.device
            ).to(device)
        return points


def set_losses(
    class_logits: Tensor,
    mask_logits: Tensor,
    targets: Sequence[Target],
    assignment: Tensor,
    pick: PointPicker | None,
    *,
    num_masks: float,
    class_weight: float | None = None,
    no_object_weight: float = 0.1,
    counted: Tensor | None = None,
) -> SetLosses:
    """Losses of Mask2Former (section 3.3), of all layers in one pass.

    Args:
        class_logits: (L + 1, B, N, K + 1).
        mask_logits: (L + 1, B, N, h, w).
        targets: ground truth of the B images, masks over the same padded extent.
        assignment: (L + 1, B, N), GT index or -1, as `matching.match` gives.
        pick: where masks are compared; on every cell of the predictions if None.
        num_masks: normaliser of the mask and dice losses (the number of GT in the whole batch,
            averaged over ranks; never below 1).
        class_weight: normaliser of the class loss, the sum of the queries' weights in the whole
            batch, averaged over ranks; of these images' own if None.
        no_object_weight: weight of the no-object class in the class loss.
        counted: (B, N) bool, queries that count in the class loss; all if None.
    """
    weights = torch.where(assignment >= 0, 1.0, no_object_weight).to(class_logits.device)
    if counted is not None:
        weights = weights * counted
    total = weights.sum((1, 2)) if class_weight is None else class_weight
    class_loss = _class_losses(class_logits, targets, assignment, weights) / total
    layer, image, query = (assignment >= 0).nonzero(as_tuple=True)
    if not len(layer):
        nothing = mask_logits.flatten(1).sum(1) * 0  # keeps every rank's graph whole
        return SetLosses(class_loss, nothing, nothing)
    device = mask_logits.device
    picked_image, assigned = image.cpu(), assignment[layer, image, query].to(device)
    layer, image, query = layer.to(device), image.to(device), query.to(device)
    logits = mask_logits[layer, image, query].float()
    counts = torch.tensor([len(target["labels"]) for target in targets], device=logits.device)
    row = (counts.cumsum(0) - counts)[image] + assigned
    masks = torch.cat([target["masks"] for target in targets])
    with torch.no_grad():
        points = pick(logits, picked_image) if pick else None
        truth = _truth(masks, row, points, (logits.shape[-2], logits.shape[-1]))
    at_points = logits.flatten(1)
    if points is not None:
        at_points = sample_logits(logits[:, None], points)[:, 0]
    mask, dice = mask_losses(at_points, truth)
    zero = logits.new_zeros(len(class_logits))
    return SetLosses(
        class_loss,
        zero.index_add(0, layer, mask) / num_masks,
        zero.index_add(0, layer, dice) / num_masks,
    )


def consistency_losses(mask_logits: Tensor, points: Tensor | None) -> Tensor:
    """The auxiliary loss between adjacent layers (MP-Former, Eq. 6), one of its naive solutions.

    L_mask(M^i, M^{i-1}): binary cross-entropy of the later layer's logits with the earlier layer's
    binary mask as label, which is not differentiated, averaged over points and summed over queries.

    Args:
        mask_logits: (L + 1, B, N, h, w).
        points: (B, P, 2) of each image, where masks are compared; every cell if None.

    Returns:
        (L,) sums over images and queries, of i = 1..L.
    """
    layers, batch = mask_logits.shape[:2]
    if points is None:
        logits = mask_logits.flatten(3).float()
        labels = (logits[:-1] > 0).float()
    else:
        every = points.expand(layers, -1, -1, -1).flatten(0, 1)
        logits = sample_logits(mask_logits.flatten(0, 1).float(), every)
        logits = logits.unflatten(0, (layers, batch))
        earlier = (mask_logits[:-1] > 0).flatten(0, 1).float()
        labels = sample_logits(earlier, every[: len(earlier)]).unflatten(0, (layers - 1, batch))
    loss = F.binary_cross_entropy_with_logits(logits[1:], labels.detach(), reduction="none")
    return loss.mean(-1).sum((1, 2))


def _truth(masks: Tensor, row: Tensor, points: Tensor | None, cells: tuple[int, int]) -> Tensor:
    """(R, P) values of GT `row` at its points; without points, at the cells' centres."""
    if points is not None:
        return sample_masks(masks, row, points)
    every = torch.arange(len(masks), device=masks.device)
    return sample_masks(masks, every, cell_centers(*cells, masks.device))[row]


def _class_losses(
    class_logits: Tensor, targets: Sequence[Target], assignment: Tensor, weights: Tensor
) -> Tensor:
    """(L + 1,) sums over the batch's queries of weighted cross-entropy."""
    assignment = assignment.to(class_logits.device)
    no_object = class_logits.shape[-1] - 1
    labels = torch.full_like(assignment, no_object)
    for image, target in enumerate(targets):
        if len(target["labels"]):
            matched = assignment[:, image]
            known = target["labels"][matched.clamp(min=0)]
            labels[:, image] = torch.where(matched >= 0, known, no_object)
    log_probability = class_logits.float().log_softmax(-1)
    loss = -log_probability.gather(-1, labels[..., None])[..., 0]
    return (loss * weights).sum((1, 2))
