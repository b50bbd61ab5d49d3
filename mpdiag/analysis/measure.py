"""Measure every layer of a model on the images of a data set."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor

from mpdiag.analysis.adapter import (
    LayerAttention,
    LayerPredictions,
    ModelAdapter,
    PreprocessedImage,
    batch_targets,
)
from mpdiag.analysis.computed_ahead import computed_ahead
from mpdiag.analysis.settings import AnalysisSettings
from mpdiag.data import Sample
from mpdiag.evaluation import Detections, Evaluator
from mpdiag.matching import Matches, Target, finite_queries
from mpdiag.metrics import ImageRows, image_rows
from mpdiag.models import ImageSizes
from mpdiag.ops import tf32, to_device
from mpdiag.ops.devices import choose_device

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImageAttention:
    """The `LayerAttention` of one image; weights and visible are (N, cells).

    Attributes:
        grid: rows and columns of the feature map, which covers the padded image.
        covered: rows and columns that the image covers; may be fractions.
        weights: (N, cells), averaged over heads.
        visible: bool (N, cells), attention mask; None for models without.
    """

    grid: tuple[int, int]
    covered: tuple[float, float]
    weights: Tensor
    visible: Tensor | None

    @classmethod
    def select(cls, layer: LayerAttention, index: int, sizes: ImageSizes) -> "ImageAttention":
        """Select image `index` of a batch."""
        rows, columns = (
            count * own / whole
            for count, own, whole in zip(layer.grid, sizes.image, sizes.padded, strict=True)
        )
        visible = None if layer.visible is None else layer.visible[index]
        return cls(layer.grid, (rows, columns), layer.weights[index], visible)


@dataclass(frozen=True, slots=True)
class MeasuredImage:
    """An image and its measurements.

    Attributes:
        sample: image and GT at the input size.
        rows: values per layer and query.
        matches: matching of each layer, with the costs of the pairs in `rows.matched_gt`.
        detections: detections at the size of the image file, by layer.
        attention: cross-attention of decoder layers 1..L, if it is saved.
    """

    sample: Sample
    rows: ImageRows
    matches: Matches
    detections: Mapping[int, Detections]
    attention: Sequence[ImageAttention] = ()


@dataclass(frozen=True, slots=True)
class _Predicted:
    """A batch with the predictions of the model."""

    batch: Sequence[PreprocessedImage]
    targets: Sequence[Target]
    predictions: LayerPredictions


class Measurer:
    """Measure samples with a model under the settings of a run."""

    def __init__(
        self, adapter: ModelAdapter, settings: AnalysisSettings, evaluator: Evaluator | None = None
    ) -> None:
        """Move the model to the device of this process.

        Args:
            adapter: the model.
            settings: settings of the run.
            evaluator: postprocesses predictions to detections; None to skip that.

        Raises:
            ConfigError: attention is requested, and the model has none that can be recorded; or the
                device is not available.
        """
        self.device = choose_device(settings.options.device)
        self.adapter = adapter
        adapter.to(self.device)
        self.workers = settings.options.workers
        self.attention = settings.options.save_attention
        if self.attention:
            adapter.check_attention()
        self.evaluator = evaluator
        self.every_layer = settings.options.evaluate_layers
        self.match = settings.matcher()

    def measure(self, parts: Iterable[Iterable[Sample]]) -> Generator[MeasuredImage, None, None]:
        """Measure samples in order. Samples of two parts do not share a batch.

        With workers, the model runs on the next batch, and the one after it is preprocessed, in
        threads while this one is measured.
        """
        prepared = chain.from_iterable(self.adapter.batches(part, self.device) for part in parts)
        with (
            tf32("none"),  # results do not depend on the generation of the GPU
            self._ahead(prepared) as batches,
            self._ahead(map(self._predict, batches)) as predictions,
        ):
            for one in predictions:
                yield from self._measure_batch(one)

    def _ahead(self, items: Iterator[T]) -> AbstractContextManager[Iterator[T]]:
        return computed_ahead(items, self.device) if self.workers else nullcontext(items)

    @torch.inference_mode()
    def _predict(self, batch: Sequence[PreprocessedImage]) -> _Predicted:
        targets = batch_targets(batch, self.device)
        found = self.adapter.predict(batch, targets, attention=self.attention)
        return _Predicted(batch, targets, found)

    @torch.inference_mode()
    def _measure_batch(self, predicted: _Predicted) -> Iterator[MeasuredImage]:
        batch, targets, predictions = predicted.batch, predicted.targets, predicted.predictions
        class_logits, mask_logits = predictions.class_logits, predictions.mask_logits
        finite = finite_queries(class_logits, mask_logits)
        matches = self.match(class_logits, mask_logits, targets, finite)
        for index, image in enumerate(batch):
            classes, masks, own_finite = (x[:, index] for x in (class_logits, mask_logits, finite))
            own = matches.image(index)
            rows = image_rows(
                classes,
                masks,
                targets[index],
                own.assignment,
                image.sizes.valid_cells((masks.shape[-2], masks.shape[-1])),
                finite=own_finite,
                fed_gt=torch.arange(masks.shape[1]) if self.adapter.queries_are_gt else None,
            )
            detections = self._detections(classes, masks, rows.finite, image.sizes)
            attention = [
                ImageAttention.select(layer, index, image.sizes) for layer in predictions.attention
            ]
            yield MeasuredImage(image.sample, rows, own, detections, attention)

    def _detections(
        self, class_logits: Tensor, mask_logits: Tensor, finite: Tensor, sizes: ImageSizes
    ) -> dict[int, Detections]:
        """Postprocess the last layer or every layer, without queries that are not finite there.

        A layer without a finite query has no detections, and for semantic segmentation no pixel
        with a class.
        """
        if self.evaluator is None:
            return {}
        detections = {}
        for layer in range(len(class_logits)) if self.every_layer else [len(class_logits) - 1]:
            kept = finite[layer].nonzero()[:, 0]  # on the CPU, where their number is known
            if not len(kept):
                detections[layer] = Detections.none(sizes.output)
                continue
            on_device = to_device(kept, mask_logits.device)
            found = self.evaluator.postprocess(
                class_logits[layer, on_device], mask_logits[layer, on_device], sizes
            )
            if len(kept) < finite.shape[1]:
                queries = kept[found.queries.clamp(min=0)]
                found = replace(found, queries=torch.where(found.queries >= 0, queries, -1))
            detections[layer] = found
        return detections
