"""Our Mask2Former as the analysis sees it: its matching part, disturbed or not, or its MP part."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mpdiag.analysis.class_names import ClassMap
from mpdiag.analysis.interventions import Intervention, intervene
from mpdiag.analysis.predicted import recorded, require_attention
from mpdiag.analysis.segmenter import Predicted, Shown
from mpdiag.config import PilotConfig
from mpdiag.data import ResizeShortestEdge, Sample, drop_empty
from mpdiag.errors import ConfigError
from mpdiag.matching import Matches, Target
from mpdiag.models import Mask2Former, assemble_pilot
from mpdiag.models.mask2former import padded_size
from mpdiag.recording import record

Matcher = Callable[[Tensor, Tensor, Sequence[Target]], Matches]


class MatchingPart:
    """The learnable queries of our model."""

    one_by_one = False
    fed_gt = False
    attention = False

    def __init__(
        self, model: Mask2Former, size: tuple[int, int] | None, classes: ClassMap | None = None
    ) -> None:
        """`size` is the shorter side and the most of the longer; None keeps images as they are."""
        self.model = model
        self.resize = None if size is None else ResizeShortestEdge(*size)
        self.classes = classes

    def to(self, device: torch.device) -> None:
        self.model.to(device).eval()

    def show(self, sample: Sample) -> Shown:
        sample = drop_empty(self.resize(sample) if self.resize else sample)
        return Shown(sample, padded_size([(sample.image.shape[-2], sample.image.shape[-1])]))

    def watch_attention(self) -> None:
        require_attention(self.model)
        self.attention = True

    def predict(self, batch: Sequence[Shown], targets: Sequence[Target]) -> Predicted:
        images = _images(batch)
        return recorded(
            self.model,
            lambda: self.model(images),
            attention=self.attention,
            classes=self.classes,
        )


class DisturbedPart(MatchingPart):
    """The same, in which some queries are made to attend elsewhere."""

    def __init__(
        self,
        model: Mask2Former,
        size: tuple[int, int] | None,
        classes: ClassMap | None,
        interventions: Sequence[Intervention],
        matcher: Matcher,
    ) -> None:
        """`matcher` finds the GT of each query in an undisturbed pass."""
        super().__init__(model, size, classes)
        self.interventions = interventions
        self.matcher = matcher

    def predict(self, batch: Sequence[Shown], targets: Sequence[Target]) -> Predicted:
        last = torch.full((len(batch), self.model.config.num_queries), -1)
        if any(one.source == "gt" for one in self.interventions):
            plain = super().predict(batch, targets)
            last = self.matcher(
                plain.class_logits[-1:], plain.mask_logits[-1:], targets
            ).assignment[0]
        with intervene(self.model, self.interventions, batch[0].padded, targets, last):
            return super().predict(batch, targets)


class PilotedPart(MatchingPart):
    """The MP part: GT fed as in training, in one group and without noise."""

    one_by_one = True  # it is as wide as the image's GT are many
    fed_gt = True

    def __init__(self, model: Mask2Former, size: tuple[int, int] | None, layers: int) -> None:
        """`layers` is how many decoder layers attend within GT masks."""
        super().__init__(model, size)
        self.layers = layers

    def watch_attention(self) -> None:
        raise ConfigError(
            "--save-attention is for the matching part, and --part piloted measures the other: "
            "give one of them"
        )

    def predict(self, batch: Sequence[Shown], targets: Sequence[Target]) -> Predicted:
        """A query for each GT, in their order; none where there is no GT."""
        config, most = self.model.config, max(len(targets[0]["labels"]), 1)
        device = targets[0]["labels"].device
        pilot = assemble_pilot(
            targets,
            PilotConfig(queries=most, noise="none", label_noise=0),
            layers=self.layers,
            num_classes=config.num_classes,
            streams=[torch.Generator(device)],
        )
        if pilot is None:
            shape, (height, width) = (config.decoder_layers + 1, 1, 0), batch[0].padded
            classes = torch.zeros(*shape, config.num_classes + 1, device=device)
            masks = torch.zeros(*shape, height // 4, width // 4, device=device)
            return Predicted(classes, masks)
        names = ["piloted_class_logits", "piloted_mask_logits"]
        with record(self.model, only=names) as recording:
            self.model(_images(batch), pilot)
        return Predicted(recording.piloted_class_logits, recording.piloted_mask_logits)


def _images(batch: Sequence[Shown]) -> list[Tensor]:
    return [shown.sample.image for shown in batch]
