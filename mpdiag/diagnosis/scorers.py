"""The score of a task, in which a diagnosis measures what a remedy gains: AP, PQ or mIoU."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from mpdiag.data import SegmentationDataset
from mpdiag.diagnosis.kept_masks import KeptMasks
from mpdiag.metrics.image_scores import ClassRatios, Floats, ImageScores
from mpdiag.metrics.panoptic_quality import match_segments
from mpdiag.metrics.semantic_iou import confusion_matrix
from mpdiag.models import PanopticSegments, panoptic_inference, semantic_inference
from mpdiag.models.inference import OBJECT_MASK_THRESHOLD

if TYPE_CHECKING:
    from mpdiag.diagnosis.evidence import Evidence, ImageEvidence

NO_CLASS = -1  # in class maps


class Scorer(ABC):
    """Scores predictions. A diagnosis has one, chosen by the task of the data set.

    Attributes:
        name: "ap", "pq" or "miou".
        needs_masks: whether the evidence must hold masks.
        left_out: causes without a remedy for this score.
    """

    name: ClassVar[str]
    needs_masks: ClassVar[bool]
    left_out: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def score(self, evidence: "Evidence", layer: int) -> ImageScores:
        """Return the scores of a layer."""


class APScorer(Scorer):
    """COCO's AP of instances."""

    name = "ap"
    needs_masks = False

    def score(self, evidence: "Evidence", layer: int) -> ImageScores:
        return evidence.matched(layer)


@dataclass(frozen=True)
class SegmentScorer(Scorer):
    """A score of the pixels of disjoint segments.

    Attributes:
        things: (K,) which classes are things.
    """

    things: Sequence[bool]

    needs_masks = True
    left_out = frozenset({"overlapping-labels", "missing-labels", "too-few-queries", "ranking"})

    def score(self, evidence: "Evidence", layer: int) -> ImageScores:
        terms = [self._image_terms(image, layer) for image in evidence.images]
        part, whole = (np.stack(one) for one in zip(*terms, strict=True))
        return ClassRatios(part, whole)

    def _image_terms(self, image: "ImageEvidence", layer: int) -> tuple[Floats, Floats]:
        """Return the (K,) terms of `ClassRatios`. Queries that are not finite predict nothing."""
        assert image.masks is not None
        finite = np.flatnonzero(~np.isnan(image.area[layer]))
        logits = torch.from_numpy(image.class_logits[layer, finite])
        masks = image.masks.layer(layer, finite)
        labels, crowd = (torch.from_numpy(x) for x in (image.gt_labels, image.gt_crowd))
        truth = PanopticSegments(torch.from_numpy(image.masks.gt), labels)
        return self._terms(logits, masks, image.masks, truth, crowd)

    @abstractmethod
    def _terms(
        self, logits: Tensor, masks: Tensor, kept: KeptMasks, truth: PanopticSegments, crowd: Tensor
    ) -> tuple[Floats, Floats]:
        """Return the (K,) terms of class logits (n, K + 1) and mask logits (n, h, w)."""


@dataclass(frozen=True)
class PQScorer(SegmentScorer):
    """Panoptic quality.

    Attributes:
        object_mask_threshold: class probability below which a query is no segment.
    """

    object_mask_threshold: float = OBJECT_MASK_THRESHOLD

    name = "pq"

    def _terms(
        self, logits: Tensor, masks: Tensor, kept: KeptMasks, truth: PanopticSegments, crowd: Tensor
    ) -> tuple[Floats, Floats]:
        predicted = panoptic_inference(
            logits,
            masks,
            kept.image_sizes,
            things=self.things,
            object_mask_threshold=self.object_mask_threshold,
        )
        pixels = truth.ids.flatten().bincount(minlength=len(truth.labels) + 1)[1:]
        # A segment that the sampling of `KeptMasks` left without pixels is not missed.
        counts = match_segments(predicted, truth, crowd | (pixels == 0), len(self.things))
        part = [sum(one.ious) for one in counts]
        whole = [len(one.ious) + (one.false_positives + one.false_negatives) / 2 for one in counts]
        return np.array(part, np.float64), np.array(whole, np.float64)


class MIoUScorer(SegmentScorer):
    """mIoU of class maps."""

    name = "miou"

    def _terms(
        self, logits: Tensor, masks: Tensor, kept: KeptMasks, truth: PanopticSegments, crowd: Tensor
    ) -> tuple[Floats, Floats]:
        if len(logits):
            predicted = semantic_inference(logits, masks, kept.image_sizes, resize_scores=True)
        else:  # the highest of no scores would be class 0
            predicted = torch.full(kept.image_sizes.output, NO_CLASS)
        labels = torch.cat([torch.tensor([NO_CLASS]), truth.labels])
        classes = labels[truth.ids.long()]
        confusion = confusion_matrix(predicted, classes, len(self.things), NO_CLASS).numpy()
        right = confusion.diagonal().astype(np.float64)
        return right, confusion.sum(1) + confusion[:, :-1].sum(0) - right


def build_scorer(data: SegmentationDataset) -> Scorer:
    """Return the scorer of the task of a data set."""
    if data.task == "instance":
        return APScorer()
    things = [info.isthing for info in data.classes]
    return PQScorer(things) if data.task == "panoptic" else MIoUScorer(things)
