"""Fixed matching, one of the naive solutions of MP-Former (appendix C.1, Table 7)."""

from torch import Tensor

from trainers.methods.method import Method, TrainingStep


class FixedMatching(Method):
    """Match the last layer and use the result for all layers."""

    name = "fixed-matching"
    description = "match the last layer, use the result for all layers (appendix C.1)"

    def assignment(self, step: TrainingStep) -> Tensor:
        predictions = step.output.matching
        layers = len(predictions.class_logits)
        return step.match(predictions, slice(-1, None)).expand(layers, -1, -1)
