"""Evaluate predicted masks by the metrics of a task: AP, PQ or mIoU."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag import rle
from mpdiag.data import ClassInfo, GroundTruth, SegmentationDataset
from mpdiag.metrics import (
    AveragePrecision,
    PanopticQuality,
    SemanticIoU,
    class_map,
    segment_map,
)
from mpdiag.metrics.weighted_ap import WeightedAP
from mpdiag.models import (
    ImageSizes,
    PanopticSegments,
    instance_inference,
    panoptic_inference,
    semantic_inference,
)
from mpdiag.ops import decode_masks, encode_masks, to_cpu
from mpdiag.recording import InstanceRule

Scores = dict[str, float | None]

_NO_CLASS = -1  # in class maps; 255 is a class of data sets with more classes


@dataclass(frozen=True, slots=True)
class Detections:
    """D predicted masks of one image, at the size of its file, on the CPU.

    Attributes:
        scores: float (D,); 1 for tasks without scores.
        labels: int64 (D,), class index.
        queries: int64 (D,), query of each mask; -1 where several queries may contribute.
        size: (height, width) in pixels.
        counts: the masks as COCO compressed RLE.
    """

    scores: Tensor
    labels: Tensor
    queries: Tensor
    size: tuple[int, int]
    counts: Sequence[bytes]

    @classmethod
    def encode(
        cls,
        masks: Tensor,
        labels: Tensor,
        scores: Tensor | None = None,
        queries: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Self:
        """Encode bool masks (M, H, W), of which detection d has that of row `rows[d]`.

        Without scores, queries and rows, fill in 1, -1 and d.
        """
        count, (height, width) = len(labels), masks.shape[1:]
        scores = labels.new_ones(count, dtype=torch.float32) if scores is None else scores
        queries = labels.new_full((count,), -1) if queries is None else queries
        rows = torch.arange(count, device=labels.device) if rows is None else rows
        if masks.is_cpu:
            encoded = encode_masks(masks)
        else:
            changes = _changes(masks)
            scores, labels, queries, rows, changes = to_cpu(scores, labels, queries, rows, changes)
            encoded = _encode_changes(changes, len(masks), height * width)
        counts = [encoded[row] for row in rows.tolist()]
        return cls(scores, labels, queries, (height, width), counts)

    @classmethod
    def none(cls, size: tuple[int, int]) -> Self:
        """Return the detections of an image of this size without any."""
        masks = torch.zeros(0, *size, dtype=torch.bool)
        return cls.encode(masks, torch.zeros(0, dtype=torch.int64))

    @property
    def masks(self) -> Tensor:
        """Bool (D, H, W)."""
        return decode_masks(self.counts, *self.size)


def _changes(masks: Tensor) -> Tensor:
    """Return (2, C) index of the mask and cell of each start of a run, column by column.

    The first run is of background and may be empty, so it has no start.
    """
    cells = masks.transpose(1, 2).flatten(1)
    before = F.pad(cells[:, :-1], (1, 0))
    return (cells != before).nonzero().T


def _encode_changes(changes: Tensor, count: int, cells: int) -> list[bytes]:
    """Encode `count` masks from the starts of their runs. A full mask need not leave the GPU."""
    mask, start = changes.numpy()
    owner = np.concatenate([mask, np.arange(count)])
    ends = np.concatenate([start, np.full(count, cells)])[np.argsort(owner, kind="stable")]
    per_mask = np.bincount(owner, minlength=count)
    runs = np.diff(ends, prepend=0)
    first = per_mask.cumsum() - per_mask
    runs[first] = ends[first]
    return rle.compress(runs, per_mask)


class Evaluator(ABC):
    """Accumulate the detections of images and compute the scores of one task.

    Add images in any order, each once. `a + b` merges the evaluators of two processes; the scores
    are bit-equal to those of one process.
    """

    primary_metric: ClassVar[str]
    """Score by which models are compared: "ap", "pq" or "miou"."""

    _metric: Any

    @abstractmethod
    def postprocess(
        self, class_logits: Tensor, mask_logits: Tensor, sizes: ImageSizes
    ) -> Detections:
        """Convert the predictions of one layer for one image to detections.

        Args:
            class_logits: (N, K + 1), no-object last.
            mask_logits: (N, h, w) over the padded image.
            sizes: sizes of the image.
        """

    @abstractmethod
    def update(self, image_id: int, detections: Detections, ground_truth: GroundTruth) -> None:
        """Add the detections of one image and its GT."""

    @abstractmethod
    def _compute(self) -> dict[str, float]:
        """Return the scores by name, NaN where no GT counts."""

    def scores(self) -> Scores:
        """Return the scores as fractions by name, None where no GT counts.

        Instance: ap, ap50, ap75, ap_small, ap_medium, ap_large. Panoptic: pq, sq and rq over all
        classes, and each with the suffixes _things and _stuff. Semantic: miou over the classes that
        have a pixel in the GT or the predictions, miou_in_gt over those in the GT.
        """
        values = self._compute().items()
        return {name: None if math.isnan(value) else value for name, value in values}

    def __add__(self, other: "Evaluator") -> Self:
        """Merge two evaluators.

        Raises:
            ValueError: the tasks or classes differ, or both hold the same image.
        """
        if type(self) is not type(other):
            raise ValueError("evaluators of different tasks can't be merged")
        merged = copy(self)
        merged._metric = self._metric + other._metric
        return merged


class InstanceEvaluator(Evaluator):
    """COCO AP of instances."""

    primary_metric = "ap"

    def __init__(self, classes: Sequence[ClassInfo], rule: InstanceRule = "mask2former") -> None:
        self._metric = AveragePrecision(range(len(classes)))
        self._rule = rule

    def postprocess(
        self, class_logits: Tensor, mask_logits: Tensor, sizes: ImageSizes
    ) -> Detections:
        found = instance_inference(class_logits, mask_logits, sizes, rule=self._rule)
        return Detections.encode(
            found.query_masks, found.labels, found.scores, found.queries, found.rows
        )

    def update(self, image_id: int, detections: Detections, ground_truth: GroundTruth) -> None:
        self._metric.update_encoded(
            image_id,
            detections,
            ground_truth.masks,
            ground_truth.labels,
            ground_truth.crowd,
            ground_truth.areas,
        )

    def resample(self, draws: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the AP (R,) of samples, in which each image is drawn (R, I) times."""
        weighted = WeightedAP.from_matches(self._metric.images, self._metric.classes)
        return weighted.values(np.asarray(draws, np.float64))

    def _compute(self) -> dict[str, float]:
        averages = self._metric.compute()
        names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
        return {name: getattr(averages, name) for name in names}


class PanopticEvaluator(Evaluator):
    """PQ of disjoint segments."""

    primary_metric = "pq"

    def __init__(self, classes: Sequence[ClassInfo]) -> None:
        self._things = [info.isthing for info in classes]
        self._metric = PanopticQuality(self._things)

    def postprocess(
        self, class_logits: Tensor, mask_logits: Tensor, sizes: ImageSizes
    ) -> Detections:
        segments = panoptic_inference(class_logits, mask_logits, sizes, things=self._things)
        ids = torch.arange(1, len(segments.labels) + 1, device=segments.ids.device)
        return Detections.encode(segments.ids == ids[:, None, None], segments.labels)

    def update(self, image_id: int, detections: Detections, ground_truth: GroundTruth) -> None:
        self._metric.update(
            PanopticSegments(segment_map(detections.masks), detections.labels),
            PanopticSegments(segment_map(ground_truth.masks), ground_truth.labels),
            ground_truth.crowd,
        )

    def _compute(self) -> dict[str, float]:
        scores = self._metric.compute()
        groups = {"": scores.all, "_things": scores.things, "_stuff": scores.stuff}
        return {
            f"{name}{suffix}": getattr(group, name)
            for suffix, group in groups.items()
            for name in ("pq", "sq", "rq")
        }


class SemanticEvaluator(Evaluator):
    """mIoU of class maps. Postprocessing resizes class scores, not masks."""

    primary_metric = "miou"

    def __init__(self, classes: Sequence[ClassInfo]) -> None:
        self._metric = SemanticIoU(len(classes), _NO_CLASS)

    def postprocess(
        self, class_logits: Tensor, mask_logits: Tensor, sizes: ImageSizes
    ) -> Detections:
        classes = semantic_inference(class_logits, mask_logits, sizes, resize_scores=True)
        labels = classes.unique()
        return Detections.encode(classes == labels[:, None, None], labels)

    def update(self, image_id: int, detections: Detections, ground_truth: GroundTruth) -> None:
        self._metric.update(
            class_map(detections.masks, detections.labels, _NO_CLASS),
            class_map(ground_truth.masks, ground_truth.labels, _NO_CLASS),
        )

    def _compute(self) -> dict[str, float]:
        scores = self._metric.compute()
        return {"miou": scores.miou, "miou_in_gt": scores.miou_in_gt}


def build_evaluator(dataset: SegmentationDataset, rule: InstanceRule = "mask2former") -> Evaluator:
    """Build the evaluator of a data set's task; `rule` is the postprocessing of instances."""
    if dataset.task == "instance":
        return InstanceEvaluator(dataset.classes, rule)
    return {"panoptic": PanopticEvaluator, "semantic": SemanticEvaluator}[dataset.task](
        dataset.classes
    )
