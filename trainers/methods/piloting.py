"""Mask piloting as a part of training: what is fed, and what its predictions are assigned to."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mpdiag.config import LossConfig, ModelConfig, TrainConfig
from mpdiag.matching import MatchingCosts, match
from mpdiag.models import Mask2Former, Pilot, Predictions, assemble_pilot
from mpdiag.models.mask_piloting import num_slots
from mpdiag.models.pilot_feeds import (
    Feed,
    MaskCode,
    check_feature_mean,
    class_embeddings,
    feature_mean,
)
from trainers.methods.batch import Batch


class MaskPiloting(nn.Module):
    """The MP part of MP-Former (section 4), or one of the ways of appendix D to feed it.

    The module's only parameters are those of the mask code; they are left out of checkpoints of
    the model.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config.pilot
        every = config.model.decoder_layers
        asked = every if self.config.layers == "all" else min(self.config.layers, every)
        self.layers = asked if self.config.feed == "attention-mask" else 0
        self.feed: Feed = class_embeddings
        if self.config.feed == "mask-code":
            self.feed = MaskCode(config.model.hidden_dim)
        elif self.config.feed == "feature-mean":
            check_feature_mean(config.model.hidden_dim, config.model.mask_dim)
            self.feed = feature_mean

    def census(self, counts: Sequence[int], loss: LossConfig) -> tuple[float, float]:
        """Slots with a GT, and the sum of the class weights of all that count."""
        pilot = self.config
        real, padding = num_slots(counts, pilot.queries, pilot.follow, pilot.groups)
        return real, real + loss.no_object_weight * padding

    def pilot(self, batch: Batch, model: ModelConfig) -> Pilot | None:
        """The MP part of these images; None where there is no GT."""
        return assemble_pilot(
            batch.targets,
            self.config,
            layers=self.layers,
            num_classes=model.num_classes,
            streams=batch.randomness.streams,
            feed=self.feed,
        )

    def assign(
        self,
        predictions: Predictions,
        pilot: Pilot,
        batch: Batch,
        costs: MatchingCosts,
        loss: LossConfig,
    ) -> Tensor:
        """(L + 1, B, P) GT of each slot: its own, or the one it matches within its group."""
        if self.config.assignment == "hard":
            return pilot.gt.expand(len(predictions.class_logits), -1, -1)
        return match(
            predictions.class_logits,
            predictions.mask_logits,
            batch.targets,
            costs=costs,
            points=batch.matching_points(loss),
            groups=pilot.group.where(pilot.gt >= 0, -1),
        )

    def zero(self, model: Mask2Former) -> Tensor:
        """A zero that depends on what the MP part alone trains, to keep a rank's graph whole."""
        own: list[Tensor] = list(self.parameters())
        if model.decoder.label_embed is not None:
            own.append(model.decoder.label_embed.weight)
        return torch.stack([weights.sum() * 0 for weights in own]).sum() if own else torch.zeros(())
