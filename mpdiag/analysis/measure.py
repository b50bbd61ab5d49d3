"""From samples to measured images: a model's layers, each matched, against the GT."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from mpdiag.analysis.segmenter import Segmenter, Shown, batches
from mpdiag.analysis.settings import Settings
from mpdiag.analysis.tables import ImageAttention, MeasuredImage
from mpdiag.data import Sample, padded_targets
from mpdiag.evaluation import Evaluator, Found
from mpdiag.matching import Matches, MatchingCosts, Target, finite_queries, match_finite
from mpdiag.metrics import image_rows
from mpdiag.models import Sizes
from mpdiag.ops import seeded_points

MATCH_SEED = 0


class Matching:
    """Matches under the settings of a run: the same costs and points for all images and layers."""

    def __init__(self, settings: Settings) -> None:
        self.costs = MatchingCosts(settings.class_cost, settings.mask_cost, settings.dice_cost)
        self.points: Tensor | None = None
        if isinstance(settings.match_points, int):
            self.points = seeded_points(settings.match_points, MATCH_SEED)

    def __call__(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        targets: Sequence[Target],
        finite: Tensor | None = None,
    ) -> Matches:
        """As `match_finite`, which says what is `finite` where it isn't known yet."""
        if finite is None:
            finite = finite_queries(class_logits, mask_logits)
        if self.points is not None:
            self.points = self.points.to(mask_logits.device)
        return match_finite(
            class_logits, mask_logits, targets, finite, costs=self.costs, points=self.points
        )


class Measurer:
    """Holds a model and the settings of a run; samples in, measured images out."""

    def __init__(
        self, segmenter: Segmenter, settings: Settings, evaluator: Evaluator | None = None
    ) -> None:
        """`evaluator` says what the last layer's predictions come to, if that is to be kept.

        Raises ConfigError where attention is to be kept and the model has none to show.
        """
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.segmenter = segmenter
        self.segmenter.to(self.device)
        if settings.save_attention:
            self.segmenter.watch_attention()
        self.evaluator = evaluator
        self.every_layer = settings.evaluate_layers
        self.match = Matching(settings)

    def measure(self, samples: Iterable[Sample]) -> Iterator[MeasuredImage]:
        """Measure samples in order."""
        for batch in batches(self.segmenter, samples, self.device):
            yield from self._batch(batch)

    @torch.inference_mode()
    def _batch(self, batch: Sequence[Shown]) -> Iterator[MeasuredImage]:
        samples = [shown.sample for shown in batch]
        targets = padded_targets(samples, batch[0].padded, self.device)
        predicted = self.segmenter.predict(batch, targets)
        class_logits, mask_logits = predicted.class_logits, predicted.mask_logits
        finite = finite_queries(class_logits, mask_logits)
        matches = self.match(class_logits, mask_logits, targets, finite)
        for index, shown in enumerate(batch):
            classes, masks, known = (x[:, index] for x in (class_logits, mask_logits, finite))
            own = Matches(*(getattr(matches, field.name)[:, index] for field in fields(matches)))
            rows = image_rows(
                classes,
                masks,
                targets[index],
                own.assignment,
                shown.sizes.cells((masks.shape[-2], masks.shape[-1])),
                finite=known,
                fed=torch.arange(masks.shape[1]) if self.segmenter.fed_gt else None,
            )
            detections = self._find(classes, masks, known, shown.sizes)
            attention = [
                ImageAttention.of(layer, index, shown.sizes) for layer in predicted.attention
            ]
            yield MeasuredImage(shown.sample, rows, own, detections, attention)

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
