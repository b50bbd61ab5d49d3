"""Mask piloting, the training method of MP-Former (section 4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mpdiag.config import PilotConfig, TrainConfig
from mpdiag.losses import named_by_layer
from mpdiag.matching import Target
from mpdiag.models import PilotInputs, build_pilot_inputs
from mpdiag.models.mask_piloting import QueryInput, class_embeddings, pilot_normalizers
from mpdiag.models.mask_queries import (
    MaskCode,
    check_feature_mean,
    detached_feature_mean,
    feature_mean,
)
from trainers.methods.batch import Losses, LossNormalizers
from trainers.methods.method import Method, TrainingStep

_TERMS = ("loss_ce", "loss_mask", "loss_dice")


class Piloted(Method):
    """Add the MP part: queries from GT that reconstruct their GT.

    The method's only parameters are those of `query_input=mask-code`.
    """

    name = "piloted"
    description = "MP-Former: add the MP part (section 4)"
    section = "pilot"
    settings_type = PilotConfig
    layer_losses = tuple(f"{term}_dn" for term in _TERMS)
    settings: PilotConfig

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.model_config = config.model
        self.query_input: QueryInput = class_embeddings
        if self.settings.query_input == "mask-code":
            self.query_input = MaskCode(config.model.hidden_dim)
        elif self.settings.query_input == "feature-mean":
            check_feature_mean(config.model.hidden_dim, config.model.mask_dim)
            official = self.settings.variant == "official"
            self.query_input = detached_feature_mean if official else feature_mean

    @classmethod
    def needs_label_embedding(cls, config: TrainConfig) -> bool:
        return config.pilot.query_input != "feature-mean"

    @property
    def masked_layers(self) -> int:
        """Number of decoder layers, from the first, that use GT masks as attention masks."""
        layers = self.model_config.decoder_layers
        if self.settings.query_input != "attention-mask":
            return 0
        return layers if self.settings.layers == "all" else min(self.settings.layers, layers)

    def normalizers(self, targets: Sequence[Target]) -> LossNormalizers:
        counts = [len(target["labels"]) for target in targets]
        masks, weight = pilot_normalizers(counts, self.settings, self.loss.no_object_weight)
        return {"piloted_masks": masks, "piloted_class_weight": weight}

    def pilot_inputs(self, step: TrainingStep) -> PilotInputs | None:
        return build_pilot_inputs(
            step.batch.targets,
            self.settings,
            layers=self.masked_layers,
            num_classes=self.model_config.num_classes,
            generators=step.batch.randomness.generators,
            query_input=self.query_input,
        )

    def losses(self, step: TrainingStep) -> Losses:
        predictions, pilot = step.output.piloted, step.pilot
        if predictions is None or pilot is None:  # no image has GT
            zero = self._zero(step).expand(self.model_config.decoder_layers + 1)
            return named_by_layer(dict.fromkeys(_TERMS, zero), "_dn")
        losses = step.set_losses(
            predictions.class_logits,
            predictions.mask_logits,
            self.piloted_assignment(step),
            num_masks=step.normalizers["piloted_masks"],
            class_weight=step.normalizers["piloted_class_weight"],
            in_class_loss=pilot.in_class_loss,
        )
        return named_by_layer(losses, "_dn")

    def piloted_assignment(self, step: TrainingStep) -> Tensor:
        """Return the (L + 1, B, P) GT of each MP query: its own, or its match in its group."""
        predictions, pilot = step.output.piloted, step.pilot
        assert predictions is not None and pilot is not None
        if self.settings.assignment == "hard":
            return pilot.gt_on_cpu.expand(len(predictions.class_logits), -1, -1)
        return step.match(predictions, groups=pilot.match_groups())

    def _zero(self, step: TrainingStep) -> Tensor:
        """Return a zero that depends on all parameters of the MP part, as DDP requires."""
        own: list[Tensor] = list(self.parameters())
        if step.model.decoder.label_embed is not None:
            own.append(step.model.decoder.label_embed.weight)
        zero = torch.zeros((), device=step.batch.randomness.device)
        return zero + sum(weights.sum() * 0 for weights in own)
