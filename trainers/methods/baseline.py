"""Mask2Former's training by set prediction."""

from collections.abc import Sequence

from mpdiag.config import TrainConfig
from mpdiag.losses import named_by_layer
from mpdiag.matching import Target
from trainers.methods.batch import Losses, LossNormalizers
from trainers.methods.method import Method, TrainingStep


class Baseline(Method):
    """Match the queries of each layer to GT and supervise every layer, M^0 included."""

    name = "baseline"
    description = "Mask2Former: match and supervise every layer; always on"
    layer_losses = ("loss_ce", "loss_mask", "loss_dice")

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.num_queries = config.model.num_queries

    def normalizers(self, targets: Sequence[Target]) -> LossNormalizers:
        counts = [len(target["labels"]) for target in targets]
        matched = sum(min(count, self.num_queries) for count in counts)
        unmatched = len(counts) * self.num_queries - matched
        return {
            "masks": sum(counts),
            "class_weight": matched + self.loss.no_object_weight * unmatched,
        }

    def losses(self, step: TrainingStep) -> Losses:
        predictions = step.output.matching
        losses = step.set_losses(
            predictions.class_logits,
            predictions.mask_logits,
            step.assignment,
            num_masks=step.normalizers["masks"],
            class_weight=step.normalizers["class_weight"],
        )
        return named_by_layer(losses)
