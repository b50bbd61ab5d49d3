"""Class, mask and dice losses of all layers of one part (matching part or MP part)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.config import LossConfig
from mpdiag.matching import MatchingCosts, Target
from mpdiag.ops import (
    cell_centers,
    mask_losses,
    rows_per_block,
    sample_logits,
    sample_masks,
    to_device,
)


@dataclass(slots=True)
class SetLosses:
    """Unweighted losses of layers 0..L, each of shape (L + 1,)."""

    class_: Tensor
    mask: Tensor
    dice: Tensor

    def weighted(self, config: LossConfig) -> dict[str, Tensor]:
        """Return the weighted losses under the names of the official code."""
        return {
            "loss_ce": config.class_weight * self.class_,
            "loss_mask": config.mask_weight * self.mask,
            "loss_dice": config.dice_weight * self.dice,
        }


def matching_costs(config: LossConfig) -> MatchingCosts:
    """Return the costs of matching in training, which weight the terms as the losses do."""
    return MatchingCosts(config.class_weight, config.mask_weight, config.dice_weight)


class PointSampler(Protocol):
    """Samples the points at which matched masks are compared with their GT."""

    def __call__(self, logits: Tensor, image: Tensor) -> Tensor:
        """Return (R, P, 2) points for (R, h, w) logits and their (R,) image index on the CPU."""


ImageRows = tuple[Tensor, torch.Generator]
"""Rows of one image on the CPU, and its random generator."""


@dataclass(frozen=True, slots=True)
class ImportanceSampler:
    """Importance sampling of PointRend, as Mask2Former uses it in training.

    Of `oversample_ratio * num_points` random points, the `importance_sample_ratio * num_points`
    with the logit nearest to zero are kept. New random points are added up to `num_points`.

    Attributes:
        generators: random generator of each image, so results do not depend on the batch's split.
        num_points: P.
        oversample_ratio, importance_sample_ratio: see above.
    """

    generators: Sequence[torch.Generator]
    num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75

    def __call__(self, logits: Tensor, image: Tensor) -> Tensor:
        kept = int(self.importance_sample_ratio * self.num_points)
        count = int(self.oversample_ratio * self.num_points)
        points = logits.new_empty(len(image), self.num_points, 2)
        rows_per_image: list[int] = image.bincount(minlength=len(self.generators)).tolist()
        by_image = image.argsort(stable=True).split(rows_per_image)
        for block in self._blocks(by_image, count):
            rows = to_device(torch.cat([part for part, _ in block]), logits.device)
            candidates = self._random_points(block, count, logits.device)
            uncertainty = -sample_logits(logits[rows][:, None], candidates)[:, 0].abs()
            best = uncertainty.topk(kept, dim=1).indices
            chosen = candidates.gather(1, best[..., None].expand(-1, -1, 2))
            points[:, :kept].index_copy_(0, rows, chosen)
        everything = list(zip(by_image, self.generators, strict=True))
        rest = self._random_points(everything, self.num_points - kept, logits.device)
        points[:, kept:].index_copy_(0, to_device(torch.cat(by_image), logits.device), rest)
        return points

    def _blocks(self, by_image: Sequence[Tensor], count: int) -> Iterator[list[ImageRows]]:
        """Yield rows of images in blocks of limited memory.

        The rows of an image are divided in the same way in any batch, because on a GPU the random
        numbers depend on it.
        """
        limit = rows_per_block(count * 2 * 4)
        block: list[ImageRows] = []
        for rows, generator in zip(by_image, self.generators, strict=True):
            for part in rows.split(limit):
                if block and sum(len(x) for x, _ in block) + len(part) > limit:
                    yield block
                    block = []
                block.append((part, generator))
        yield block

    def _random_points(
        self, block: Sequence[ImageRows], count: int, device: torch.device
    ) -> Tensor:
        """Return (rows, count, 2) points, those of each image from its generator."""
        sizes = [len(rows) for rows, _ in block]
        points = torch.empty(sum(sizes), count, 2, device=device)
        for part, (_, generator) in zip(points.split(sizes), block, strict=True):
            part.uniform_(generator=generator)
        return points


def build_point_sampler(
    config: LossConfig, generators: Sequence[torch.Generator]
) -> ImportanceSampler | None:
    """Return the sampler of the points at which losses compare masks; None for all cells."""
    if config.num_points == "all":
        return None
    return ImportanceSampler(
        generators, config.num_points, config.oversample_ratio, config.importance_sample_ratio
    )


def named_by_layer(
    losses: Mapping[str, Tensor], suffix: str = "", first_layer: int = 0
) -> dict[str, Tensor]:
    """Name the values of each loss as the official code does: M^i has `_i`, M^L no number."""
    named: dict[str, Tensor] = {}
    for name, values in losses.items():
        *earlier, last = values.unbind()
        named |= {f"{name}{suffix}_{i}": x for i, x in enumerate(earlier, first_layer)}
        named[f"{name}{suffix}"] = last
    return named


def set_losses(
    class_logits: Tensor,
    mask_logits: Tensor,
    targets: Sequence[Target],
    assignment: Tensor,
    point_sampler: PointSampler | None,
    *,
    num_masks: float,
    class_weight: float | None = None,
    no_object_weight: float = 0.1,
    in_class_loss: Tensor | None = None,
) -> SetLosses:
    """Compute the losses of Mask2Former (section 3.3) of all layers.

    Args:
        class_logits: (L + 1, B, N, K + 1).
        mask_logits: (L + 1, B, N, h, w).
        targets: GT of the B images, masks over the same padded size.
        assignment: (L + 1, B, N) GT index or -1 on the CPU, from `matching.match`.
        point_sampler: samples the points at which masks are compared; all cells if None.
        num_masks: normalizer of the mask and dice losses: number of GT in the whole batch, at least
            1, divided by the number of ranks.
        class_weight: normalizer of the class loss: sum of the query weights in the whole batch,
            averaged over ranks; computed from these images if None.
        no_object_weight: weight of the no-object class in the class loss.
        in_class_loss: (B, N) bool, queries that the class loss includes; all if None.
    """
    device = mask_logits.device
    matched = to_device(assignment, device)
    weights = torch.where(matched >= 0, 1.0, no_object_weight)
    if in_class_loss is not None:
        weights = weights * in_class_loss
    total = weights.sum((1, 2)) if class_weight is None else class_weight
    class_loss = _class_losses(class_logits, targets, matched, weights) / total
    layer, image, query = (assignment >= 0).nonzero(as_tuple=True)
    if not len(layer):
        # Zeros that depend on the masks, so that every rank has the same autograd graph. The sum of
        # all logits may overflow in float16.
        no_loss = mask_logits.flatten(1)[:, 0].float() * 0
        return SetLosses(class_loss, no_loss, no_loss)
    counts = torch.tensor([len(target["labels"]) for target in targets])
    row = (counts.cumsum(0) - counts)[image] + assignment[layer, image, query]
    image_on_cpu = image
    layer, image, query, row = to_device(torch.stack([layer, image, query, row]), device)
    # Image first, as the logits lie in memory: then the gradient needs no copy.
    logits = mask_logits.transpose(0, 1)[image, layer, query].float()
    masks = torch.cat([target["masks"] for target in targets])
    with torch.no_grad():
        points = point_sampler(logits, image_on_cpu) if point_sampler else None
        truth = _sample_targets(masks, row, points, (logits.shape[-2], logits.shape[-1]))
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
    """Compute the auxiliary loss between adjacent layers (MP-Former, Eq. 6).

    L_mask(M^i, M^{i-1}): binary cross-entropy of the later layer's logits with the earlier layer's
    binary mask as constant label, averaged over points and summed over queries. The paper only
    calls it the mask loss, which in Mask2Former has a dice part as well. Binary cross-entropy alone
    is our choice.

    Args:
        mask_logits: (L + 1, B, N, h, w).
        points: (B, P, 2) points at which masks are compared; all cells if None.

    Returns:
        (L,) sums over images and queries for i = 1..L.
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


def _sample_targets(
    masks: Tensor, row: Tensor, points: Tensor | None, cells: tuple[int, int]
) -> Tensor:
    """Sample GT `row` at points, or at the centres of all cells; returns (R, P)."""
    if points is not None:
        return sample_masks(masks, row, points)
    every = torch.arange(len(masks), device=masks.device)
    return sample_masks(masks, every, cell_centers(*cells, masks.device))[row]


def _class_losses(
    class_logits: Tensor, targets: Sequence[Target], assignment: Tensor, weights: Tensor
) -> Tensor:
    """Return (L + 1,) sums of the weighted cross-entropy over the batch's queries."""
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
