"""The interface of a training method, and the forward pass that methods share."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor, nn

from mpdiag.config import LossConfig, Strict, TrainConfig
from mpdiag.losses import build_point_sampler, matching_costs, set_losses
from mpdiag.matching import Target, match
from mpdiag.models import Mask2Former, Mask2FormerOutput, PilotInputs, Predictions
from trainers.methods.batch import Batch, Losses, LossNormalizers


class Method(nn.Module):
    """A training method: what it adds to a forward pass, and its losses.

    To add a method, write a subclass in a file of this package. It is then a value of `method`, its
    settings are a section of every recipe, and it combines with the others by `+`. The baseline is
    always on unless a method stands alone.

    Parameters of a method are trained and saved with the training state, not with the model.

    Attributes:
        name: name in `method=...`.
        description: one line on what it does, with its source.
        section: key of its settings in a recipe; None without settings.
        settings_type: the settings and their defaults.
        layer_losses: losses that exist once per layer; the layer's number is added to their name.
        stands_alone: does not combine with other methods.
        trains_decoder: trains the query decoder; otherwise it keeps its initial values.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    section: ClassVar[str | None] = None
    settings_type: ClassVar[type[Strict]] = Strict
    layer_losses: ClassVar[tuple[str, ...]] = ()
    stands_alone: ClassVar[bool] = False
    trains_decoder: ClassVar[bool] = True

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.loss = config.loss
        self.settings: Any = self.settings_of(config)

    @classmethod
    def settings_of(cls, config: TrainConfig) -> Any:
        """Return the method's section of a configuration, or its defaults."""
        return getattr(config, cls.section or "", None) or cls.settings_type()

    @classmethod
    def needs_label_embedding(cls, config: TrainConfig) -> bool:
        """Return whether the model needs class embeddings."""
        return False

    def prepare(self, model: Mask2Former) -> None:
        """Change the model once, before training starts."""

    def normalizers(self, targets: Sequence[Target]) -> LossNormalizers:
        """Return what these images add to the sums that divide the losses of a step."""
        return {}

    def pilot_inputs(self, step: "TrainingStep") -> PilotInputs | None:
        """Return queries for an MP part of the forward pass, or None."""
        return None

    def assignment(self, step: "TrainingStep") -> Tensor | None:
        """Return the (L + 1, B, N) GT of each query; None to match each layer."""
        return None

    def losses(self, step: "TrainingStep") -> Losses:
        """Return weighted scalar losses by name."""
        return {}


class TrainingStep:
    """A forward pass on a batch. Its parts are computed when a method first reads them.

    Attributes:
        model: the network.
        batch: images and GT of a step, or of a part of it.
        normalizers: sums over the whole step.
        methods: the methods that train the model.
        loss: weights and points.
        costs: of matching.
    """

    def __init__(
        self,
        model: Mask2Former,
        methods: Sequence[Method],
        batch: Batch,
        normalizers: LossNormalizers,
        loss: LossConfig,
    ) -> None:
        self.model, self.methods, self.batch = model, methods, batch
        self.normalizers, self.loss = normalizers, loss
        self.costs = matching_costs(loss)

    def losses(self) -> Losses:
        """Return the weighted scalar losses of all methods by name."""
        losses: Losses = {}
        for method in self.methods:
            losses |= method.losses(self)
        return losses

    @cached_property
    def pilot(self) -> PilotInputs | None:
        """Inputs of the MP part; None without one, and if no image has GT."""
        pilot: PilotInputs | None = _first(method.pilot_inputs(self) for method in self.methods)
        return pilot

    @cached_property
    def output(self) -> Mask2FormerOutput:
        """Predictions of all layers."""
        pilot = self.pilot
        with self.batch.autocast():
            output: Mask2FormerOutput = self.model(self.batch.images, pilot)
        return output

    @cached_property
    def assignment(self) -> Tensor:
        """(L + 1, B, N) GT index of each query of the matching part, -1 for none."""
        replaced = _first(method.assignment(self) for method in self.methods)
        return self.match(self.output.matching) if replaced is None else replaced

    def match(
        self, predictions: Predictions, layers: slice = slice(None), groups: Tensor | None = None
    ) -> Tensor:
        """Match the queries of each of `layers` to GT; see `mpdiag.matching.match`."""
        return match(
            predictions.class_logits[layers],
            predictions.mask_logits[layers],
            self.batch.targets,
            costs=self.costs,
            points=self.batch.matching_points(self.loss),
            groups=groups,
        )

    def set_losses(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        assignment: Tensor,
        *,
        num_masks: float,
        class_weight: float,
        in_class_loss: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return weighted class, mask and dice losses, each with a value per layer."""
        losses = set_losses(
            class_logits,
            mask_logits,
            self.batch.targets,
            assignment,
            build_point_sampler(self.loss, self.batch.randomness.generators),
            num_masks=num_masks,
            class_weight=class_weight,
            no_object_weight=self.loss.no_object_weight,
            in_class_loss=in_class_loss,
        )
        return losses.weighted(self.loss)


def _first(found: Any) -> Any:
    return next((value for value in found if value is not None), None)
