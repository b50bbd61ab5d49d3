"""The auxiliary loss between adjacent layers, a naive solution of MP-Former (Eq. 6, Table 7).

Eq. 6 only sums over layers. Binary cross-entropy as the mask loss, the mean over images and queries
and the weight are our choice.
"""

from pydantic import Field

from mpdiag.config import Strict, TrainConfig
from mpdiag.losses import consistency_losses
from trainers.methods.batch import Losses
from trainers.methods.method import Method, TrainingStep


class AuxiliaryLossConfig(Strict):
    """Settings of the auxiliary loss."""

    weight: float = Field(5.0, ge=0, description="weight of the loss")


class AuxiliaryLoss(Method):
    """Pull each layer's masks to those of the layer before, over all queries."""

    name = "auxiliary-loss"
    description = "pull each layer's masks to those of the layer before (Eq. 6)"
    section = "auxiliary_loss"
    settings_type = AuxiliaryLossConfig
    layer_losses = ("loss_consistency",)

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.num_queries = config.model.num_queries

    def losses(self, step: TrainingStep) -> Losses:
        points = step.batch.uniform_points(self.loss)
        sums = consistency_losses(step.output.matching.mask_logits, points)
        queries = step.normalizers["images"] * self.num_queries
        weighted = self.settings.weight * sums / queries
        return {f"loss_consistency_{i}": x for i, x in enumerate(weighted.unbind(), 1)}
