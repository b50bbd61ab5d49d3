"""From samples to measured images: the model under the recorder, matched in every layer."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Literal

import torch
from torch import Tensor

from mpdiag.analysis.interventions import Intervention, intervene
from mpdiag.analysis.settings import Settings
from mpdiag.analysis.tables import MeasuredImage
from mpdiag.config import PilotConfig
from mpdiag.data import Sample, padded_targets
from mpdiag.evaluation import Evaluator, Found
from mpdiag.matching import Matches, MatchingCosts, Target, finite_queries, match_finite
from mpdiag.metrics import image_rows, valid_cells
from mpdiag.models import Mask2Former, Sizes, assemble_pilot
from mpdiag.models.mask2former import PIXELS_AT_ONCE, alike
from mpdiag.ops import seeded_points
from mpdiag.recording import record

Part = Literal["matching", "piloted"]
MATCH_SEED = 0


class Measurer:
    """Holds a model and the settings of a run; samples in, measured images out."""

    def __init__(
        self,
        model: Mask2Former,
        settings: Settings,
        part: Part,
        evaluator: Evaluator | None = None,
        interventions: Sequence[Intervention] = (),
    ) -> None:
        """`evaluator` says what the last layer's predictions come to, if that is to be kept."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).eval()
        self.part = part
        self.pilot_layers = settings.pilot_layers
        self.evaluator = evaluator
        self.every_layer = settings.evaluate_layers
        self.interventions = interventions
        self.costs = MatchingCosts(settings.class_cost, settings.mask_cost, settings.dice_cost)
        self.points: Tensor | None = None
        if isinstance(settings.match_points, int):
            self.points = seeded_points(settings.match_points, MATCH_SEED).to(self.device)

    def measure(self, samples: Iterable[Sample]) -> Iterator[MeasuredImage]:
        """Measure samples in order."""
        # The MP part of an image is as wide as its GT are many, so its images go one by one.
        pixels = 0 if self.part == "piloted" else PIXELS_AT_ONCE[self.device.type]
        for size, batch in alike(samples, pixels):
            yield from self._batch(batch, size)

    @torch.inference_mode()
    def _batch(self, samples: Sequence[Sample], size: tuple[int, int]) -> Iterator[MeasuredImage]:
        targets = padded_targets(samples, size, self.device)
        if self.part == "matching":
            class_logits, mask_logits = self._matching_part(samples, targets, size)
        else:
            class_logits, mask_logits = self._piloted_part(samples, targets, size)
        finite = finite_queries(class_logits, mask_logits)
        matches = self._match(class_logits, mask_logits, targets, finite)
        for index, sample in enumerate(samples):
            classes, masks, known = (x[:, index] for x in (class_logits, mask_logits, finite))
            own = Matches(*(getattr(matches, field.name)[:, index] for field in fields(matches)))
            rows = image_rows(
                classes,
                masks,
                targets[index],
                own.assignment,
                valid_cells(*_size(sample)),
                finite=known,
                # One slot for each GT, in their order.
                fed=torch.arange(masks.shape[1]) if self.part == "piloted" else None,
            )
            detections = self._find(
                classes, masks, known, Sizes(size, _size(sample), sample.original_size)
            )
            yield MeasuredImage(sample, rows, own, detections)

    def _find(
        self, class_logits: Tensor, mask_logits: Tensor, finite: Tensor, sizes: Sizes
    ) -> dict[int, Found]:
        """What the last layer, or each, comes to, without queries that are not finite there."""
        if self.evaluator is None:
            return {}
        detections = {}
        for layer in range(len(class_logits)) if self.every_layer else [len(class_logits) - 1]:
            kept = finite[layer].nonzero()[:, 0]
            found = self.evaluator.find(class_logits[layer, kept], mask_logits[layer, kept], sizes)
            if len(kept) < finite.shape[1]:
                queries = torch.where(
                    found.queries >= 0, kept.cpu()[found.queries.clamp(min=0)], -1
                )
                found = replace(found, queries=queries)
            detections[layer] = found
        return detections

    def _match(
        self, class_logits: Tensor, mask_logits: Tensor, targets: Sequence[Target], finite: Tensor
    ) -> Matches:
        return match_finite(
            class_logits, mask_logits, targets, finite, costs=self.costs, points=self.points
        )

    def _matching_part(
        self, samples: Sequence[Sample], targets: Sequence[Target], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """All layers' classes and masks; with interventions, those of a second, disturbed pass."""
        if not self.interventions:
            return self._forward(samples)
        last = torch.full((len(samples), self.model.config.num_queries), -1)
        if any(one.source == "gt" for one in self.interventions):
            plain = [layers[-1:] for layers in self._forward(samples)]
            last = self._match(plain[0], plain[1], targets, finite_queries(*plain)).assignment[0]
        with intervene(self.model, self.interventions, size, targets, last):
            return self._forward(samples)

    def _forward(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        with record(self.model, only=["class_logits", "mask_logits"]) as recording:
            self.model([sample.image.to(self.device) for sample in samples])
        return recording.class_logits, recording.mask_logits

    def _piloted_part(
        self, samples: Sequence[Sample], targets: Sequence[Target], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """GT fed as in training, in one group and without noise; nothing where there is no GT."""
        config, most = self.model.config, max(len(targets[0]["labels"]), 1)
        pilot = assemble_pilot(
            targets,
            PilotConfig(queries=most, noise="none", label_noise=0),
            layers=self.pilot_layers or config.decoder_layers,
            num_classes=config.num_classes,
            streams=[torch.Generator(self.device)],
        )
        if pilot is None:
            shape = (config.decoder_layers + 1, 1, 0)
            classes = torch.zeros(*shape, config.num_classes + 1, device=self.device)
            return classes, torch.zeros(*shape, size[0] // 4, size[1] // 4, device=self.device)
        names = ["piloted_class_logits", "piloted_mask_logits"]
        with record(self.model, only=names) as recording:
            self.model([sample.image.to(self.device) for sample in samples], pilot)
        return recording.piloted_class_logits, recording.piloted_mask_logits


def _size(sample: Sample) -> tuple[int, int]:
    return sample.image.shape[-2], sample.image.shape[-1]
