"""Training by set prediction: Mask2Former's, with what the paper adds to it or changes in it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mpdiag.config import LossConfig
from mpdiag.losses import SetLosses, consistency_losses, set_losses
from mpdiag.matching import MatchingCosts, Target, match
from mpdiag.models import Mask2Former, Output, Pilot, Predictions
from trainers.methods.batch import Batch, Census, Losses
from trainers.methods.piloting import MaskPiloting


class SetPrediction(nn.Module):
    """Match queries to GT, supervise every layer; M^0 too.

    By default every layer of the matching part is matched anew (the baseline). `fixed` matches the
    last layer and reuses that for all (MP-Former, appendix C.1). `consistent` adds the auxiliary
    loss between adjacent layers (Eq. 6). `piloting` adds the MP part.
    """

    def __init__(
        self,
        model: Mask2Former,
        loss: LossConfig,
        piloting: MaskPiloting | None = None,
        *,
        fixed: bool = False,
        consistent: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.piloting = piloting
        self.fixed = fixed
        self.consistent = consistent
        self.costs = MatchingCosts(loss.class_weight, loss.mask_weight, loss.dice_weight)

    def census(self, targets: Sequence[Target]) -> Census:
        """What these images add to the normalisers of their step."""
        queries, counts = self.model.config.num_queries, [len(x["labels"]) for x in targets]
        matched = sum(min(count, queries) for count in counts)
        unmatched = len(counts) * queries - matched
        weight = matched + self.loss.no_object_weight * unmatched
        piloted = self.piloting.census(counts, self.loss) if self.piloting else (0.0, 0.0)
        return Census(len(counts), sum(counts), weight, *piloted)

    def forward(self, batch: Batch, census: Census, autocast: torch.dtype | None = None) -> Losses:
        """Weighted losses by their official names (loss_ce_3, loss_mask, ...), each a scalar.

        Args:
            batch: images of a step or of a part of it.
            census: of the whole step.
            autocast: the model runs in this precision, matching and losses in float32.
        """
        pilot = self.piloting.pilot(batch, self.model.config) if self.piloting else None
        with torch.autocast(batch.randomness.device.type, autocast, enabled=autocast is not None):
            output: Output = self.model(batch.images, pilot)
        losses = self._matching_part(output.matching, batch, census)
        if self.piloting is not None:
            losses |= self._piloted_part(self.piloting, output.piloted, pilot, batch, census)
        return losses

    def _piloted_part(
        self,
        piloting: MaskPiloting,
        predictions: Predictions | None,
        pilot: Pilot | None,
        batch: Batch,
        census: Census,
    ) -> Losses:
        if predictions is None or pilot is None:  # none of these images has GT
            nothing = piloting.zero(self.model).expand(self.model.config.decoder_layers + 1)
            return named_losses(SetLosses(nothing, nothing, nothing), self.loss, "_dn")
        losses = set_losses(
            predictions.class_logits,
            predictions.mask_logits,
            batch.targets,
            piloting.assign(predictions, pilot, batch, self.costs, self.loss),
            batch.point_picker(self.loss),
            num_masks=census.piloted_masks,
            class_weight=census.piloted_class_weight,
            no_object_weight=self.loss.no_object_weight,
            counted=pilot.counted,
        )
        return named_losses(losses, self.loss, "_dn")

    def _matching_part(self, predictions: Predictions, batch: Batch, census: Census) -> Losses:
        losses = set_losses(
            predictions.class_logits,
            predictions.mask_logits,
            batch.targets,
            self._assign(predictions, batch),
            batch.point_picker(self.loss),
            num_masks=census.masks,
            class_weight=census.class_weight,
            no_object_weight=self.loss.no_object_weight,
        )
        named = named_losses(losses, self.loss, "")
        if self.consistent:
            points = batch.uniform_points(self.loss)
            sums = consistency_losses(predictions.mask_logits, points)
            queries = census.images * self.model.config.num_queries
            weighted = self.loss.consistency_weight * sums / queries
            named |= {f"loss_consistency_{i}": x for i, x in enumerate(weighted.unbind(), 1)}
        return named

    def _assign(self, predictions: Predictions, batch: Batch) -> Tensor:
        layers = slice(-1, None) if self.fixed else slice(None)
        assignment = match(
            predictions.class_logits[layers],
            predictions.mask_logits[layers],
            batch.targets,
            costs=self.costs,
            points=batch.matching_points(self.loss),
        )
        return assignment.expand(len(predictions.class_logits), -1, -1)


def named_losses(losses: SetLosses, weights: LossConfig, suffix: str) -> Losses:
    """Weighted losses by official name: layer L without an index, M^i as `_i`, MP part `_dn`."""
    terms = {
        "loss_ce": weights.class_weight * losses.class_,
        "loss_mask": weights.mask_weight * losses.mask,
        "loss_dice": weights.dice_weight * losses.dice,
    }
    last = len(losses.class_) - 1
    return {
        f"{name}{suffix}" + ("" if layer == last else f"_{layer}"): value
        for name, values in terms.items()
        for layer, value in enumerate(values.unbind())
    }
