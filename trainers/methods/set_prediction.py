"""Training by set prediction: Mask2Former's, with what the paper adds to it or changes in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mpdiag.config import LossConfig
from mpdiag.losses import SetLosses, consistency_losses, set_losses
from mpdiag.matching import MatchingCosts, Target, match
from mpdiag.models import Mask2Former, Output, Pilot, Predictions
from trainers.methods.batch import Batch, Census, Losses
from trainers.methods.piloting import MaskPiloting


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predictions of all layers of both parts, and the MP part that was fed."""

    matching: Predictions
    piloted: Predictions | None
    pilot: Pilot | None


@dataclass(frozen=True, slots=True)
class Assigned:
    """GT of each query of all layers, -1 for none: (L + 1, B, N), and (L + 1, B, P)."""

    matching: Tensor
    piloted: Tensor | None


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
        predicted = self.predict(batch, autocast)
        return self.losses(predicted, self.assign(predicted, batch), batch, census)

    def predict(self, batch: Batch, autocast: torch.dtype | None = None) -> Predicted:
        """The model's predictions, of the MP part too where there is one."""
        pilot = self.piloting.pilot(batch, self.model.config) if self.piloting else None
        with batch.autocast(autocast):
            output: Output = self.model(batch.images, pilot)
        return Predicted(output.matching, output.piloted, pilot)

    def assign(self, predicted: Predicted, batch: Batch) -> Assigned:
        """Which GT each query is supervised by."""
        matching, layers = predicted.matching, slice(-1, None) if self.fixed else slice(None)
        matched = match(
            matching.class_logits[layers],
            matching.mask_logits[layers],
            batch.targets,
            costs=self.costs,
            points=batch.matching_points(self.loss),
        )
        piloted = None
        if self.piloting is not None and predicted.pilot is not None and predicted.piloted:
            piloted = self.piloting.assign(
                predicted.piloted, predicted.pilot, batch, self.costs, self.loss
            )
        return Assigned(matched.expand(len(matching.class_logits), -1, -1), piloted)

    def losses(
        self, predicted: Predicted, assigned: Assigned, batch: Batch, census: Census
    ) -> Losses:
        """Weighted losses of both parts."""
        losses = set_losses(
            predicted.matching.class_logits,
            predicted.matching.mask_logits,
            batch.targets,
            assigned.matching,
            batch.point_picker(self.loss),
            num_masks=census.masks,
            class_weight=census.class_weight,
            no_object_weight=self.loss.no_object_weight,
        )
        named = named_losses(losses, self.loss, "")
        if self.consistent:
            points = batch.uniform_points(self.loss)
            sums = consistency_losses(predicted.matching.mask_logits, points)
            queries = census.images * self.model.config.num_queries
            weighted = self.loss.consistency_weight * sums / queries
            named |= {f"loss_consistency_{i}": x for i, x in enumerate(weighted.unbind(), 1)}
        if self.piloting is not None:
            named |= self._piloted_losses(self.piloting, predicted, assigned, batch, census)
        return named

    def _piloted_losses(
        self,
        piloting: MaskPiloting,
        predicted: Predicted,
        assigned: Assigned,
        batch: Batch,
        census: Census,
    ) -> Losses:
        predictions, pilot = predicted.piloted, predicted.pilot
        if predictions is None or pilot is None or assigned.piloted is None:  # no image has GT
            nothing = piloting.zero(self.model).expand(self.model.config.decoder_layers + 1)
            return named_losses(SetLosses(nothing, nothing, nothing), self.loss, "_dn")
        losses = set_losses(
            predictions.class_logits,
            predictions.mask_logits,
            batch.targets,
            assigned.piloted,
            batch.point_picker(self.loss),
            num_masks=census.piloted_masks,
            class_weight=census.piloted_class_weight,
            no_object_weight=self.loss.no_object_weight,
            counted=pilot.counted,
        )
        return named_losses(losses, self.loss, "_dn")


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
