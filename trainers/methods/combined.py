"""A model with the methods that train it: batch in, weighted losses out."""

from collections.abc import Sequence

from torch import nn

from mpdiag.config import LossConfig
from mpdiag.matching import Target
from mpdiag.models import Mask2Former
from trainers.methods.batch import Batch, Losses, LossNormalizers
from trainers.methods.method import Method, TrainingStep


class CombinedMethod(nn.Module):
    """Methods that share one forward pass of a model.

    Losses are sums over a part of a step, divided by normalizers of the whole step, so that a step
    has the same gradients in one part or in several (docs/decisions/0006).
    """

    def __init__(self, model: Mask2Former, methods: Sequence[Method], loss: LossConfig) -> None:
        super().__init__()
        self.model = model
        self.methods = nn.ModuleDict({method.name: method for method in methods})
        self.loss = loss
        for method in methods:
            method.prepare(model)

    def normalizers(self, targets: Sequence[Target]) -> LossNormalizers:
        """Return what these images add to the sums that divide the losses of a step."""
        sums: LossNormalizers = {"images": len(targets)}
        for method in self._methods():
            sums |= method.normalizers(targets)
        return sums

    def forward(self, batch: Batch, normalizers: LossNormalizers) -> Losses:
        """Return weighted scalar losses by name.

        Args:
            batch: images of a step, or of a part of it.
            normalizers: of the whole step.
        """
        return self.step(batch, normalizers).losses()

    def step(self, batch: Batch, normalizers: LossNormalizers) -> TrainingStep:
        """Return the forward pass and losses of `forward`, computed part by part."""
        return TrainingStep(self.model, self._methods(), batch, normalizers, self.loss)

    def layer_of(self, loss: str) -> tuple[str, int | None]:
        """Split the name of a loss into its term and its layer; None if it is not per layer."""
        for method in self._methods():
            for term in method.layer_losses:
                if loss == term:
                    return term, self.model.config.decoder_layers
                number = loss.removeprefix(f"{term}_")
                if number != loss and number.isdecimal():
                    return term, int(number)
        return loss, None

    def _methods(self) -> list[Method]:
        return list(self.methods.values())  # type: ignore[arg-type]
