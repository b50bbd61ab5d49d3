"""What a diagnosis measures on each image: predictions of all layers and their overlaps with GT."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit

from mpdiag.diagnosis.kept_masks import KeptMasks
from mpdiag.diagnosis.matched import ImageDetections, weighted_ap
from mpdiag.diagnosis.scorers import APScorer, Scorer
from mpdiag.metrics.image_scores import Floats, ImageScores
from mpdiag.metrics.weighted_ap import Bools, Ints, WeightedAP
from mpdiag.models.inference import select_pairs
from mpdiag.recording import InstanceRule

if TYPE_CHECKING:
    from mpdiag.diagnosis.facts import ModelFacts

Float32 = npt.NDArray[np.float32]
Values = TypeVar("Values", Float32, Floats)

MAX_DETECTIONS = 100  # per image, as in instance inference
IMAGES_SHOWN = 20  # of a finding
REPEATED_IOU = 0.75
"""IoU from which on two masks of a layer count as repetitions."""


@dataclass(frozen=True, slots=True)
class ImageEvidence:
    """Predictions of N queries in S layers for one image with G ground truths.

    The last layer is the one that is scored. A remedy returns a changed copy.

    Attributes:
        image_id: id of the image.
        class_logits: (S, N, K + 1), no-object last.
        quality: (S, N) mean probability inside the mask, 0 if it is empty or not finite.
        iou: (S, N, G) at the size of the image file; for a crowd the share of the mask inside it.
        area: (S, N) share of the image; NaN if class or mask is not finite.
        center: (S, N, 2) mean y and x of the mask, 0..1; NaN if it is empty.
        overlap: (S, N) highest IoU of the mask with that of another query in the layer.
        repeated: bool (S, N, N), pairs of masks of a layer with an IoU of at least `REPEATED_IOU`.
        moved: (N, N) IoU of masks of the layer before (rows) with those of the last (columns).
        grid: rows and columns of the prediction grid that the image covers.
        features: (S, N, C) queries; None if they were not recorded.
        gt_labels: (G,).
        gt_crowd: bool (G,).
        gt_center: (G, 2), like `center`.
        gt_area: (G,) pixels of the image file.
        pixels: number of pixels of the image file.
        gt_overlap: (G, G) IoU of the GT with each other.
        ignored: bool (N,), queries whose detections are no false positives.
        masks: masks of all layers; None if the score does not need them.
    """

    image_id: int
    class_logits: Float32
    quality: Float32
    iou: Float32
    area: Float32
    center: Float32
    overlap: Float32
    repeated: Bools
    moved: Float32
    grid: tuple[int, int]
    features: Float32 | None
    gt_labels: Ints
    gt_crowd: Bools
    gt_center: Float32
    gt_area: Floats
    pixels: int
    gt_overlap: Float32
    ignored: Bools
    masks: KeptMasks | None = None

    @property
    def probabilities(self) -> Float32:
        """(N, K + 1) class probabilities of the last layer."""
        return softmax(self.class_logits[-1])

    def class_probabilities(self, rule: InstanceRule, layer: int = -1) -> Float32:
        """Return the (N, K) probabilities of the classes, each on its own if `rule` is sigmoid."""
        logits = self.class_logits[layer]
        values: Float32 = softmax(logits)[:, :-1]
        if rule == "sigmoid":
            values = expit(logits[:, :-1] - logits[:, -1:])
        return values

    def class_scores(self, rule: InstanceRule, layer: int = -1) -> Float32:
        """Return the (N, K) scores of the pairs of query and class, as those of `detections`."""
        scores = self.class_probabilities(rule, layer)
        if rule == "mask2former":
            scores = scores * self.quality[layer][:, None]
        return scores

    def with_layer(self, layer: int) -> Self:
        """Return the predictions as if `layer` were the last one.

        No mask has moved in it, unless it is the last one.
        """
        stop = layer + 1
        moved = np.eye(len(self.moved), dtype=np.float32)
        if stop == len(self.area):
            moved = self.moved
        return replace(
            self,
            class_logits=self.class_logits[:stop],
            quality=self.quality[:stop],
            iou=self.iou[:stop],
            area=self.area[:stop],
            center=self.center[:stop],
            overlap=self.overlap[:stop],
            repeated=self.repeated[:stop],
            moved=moved,
            features=None if self.features is None else self.features[:stop],
            masks=self.masks and replace(self.masks, rows=self.masks.rows[:stop]),
        )

    def with_masks_of(self, layers: Ints, queries: Ints) -> Self:
        """Return the predictions with other masks in the last layer.

        Masks of different layers do not count as repeated, and masks of earlier layers not as
        moved.

        Args:
            layers: (N,) layer from which each query gets its mask.
            queries: (N,) query of that mask.
        """

        def move(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.concatenate([values[:-1], values[layers, queries][None]])

        repeated = self.repeated[layers[:, None], queries[:, None], queries]
        repeated &= layers[:, None] == layers
        last = layers == len(self.area) - 1
        return replace(
            self,
            quality=move(self.quality),
            iou=move(self.iou),
            area=move(self.area),
            center=move(self.center),
            overlap=move(self.overlap),
            repeated=np.concatenate([self.repeated[:-1], repeated[None]]),
            moved=np.where(last, self.moved[:, queries], np.eye(len(last), dtype=np.float32)),
            masks=self.masks and replace(self.masks, rows=move(self.masks.rows)),
        )

    def with_logits(self, class_logits: Float32) -> Self:
        """Return the predictions with other class logits (N, K + 1) in the last layer."""
        return replace(
            self, class_logits=np.concatenate([self.class_logits[:-1], class_logits[None]])
        )

    def detections(self, rule: InstanceRule, layer: int = -1) -> ImageDetections:
        """Return the detections of a layer, as `instance_inference` selects them.

        Queries that are not finite give none.
        """
        finite = np.flatnonzero(~np.isnan(self.area[layer]))
        logits = torch.from_numpy(np.ascontiguousarray(self.class_logits[layer, finite]))
        chosen = select_pairs(logits, MAX_DETECTIONS, rule)
        scores, queries, labels = (x.numpy() for x in chosen)
        queries = finite[queries]
        if rule == "mask2former":
            scores = scores * self.quality[layer, queries]
        order = np.argsort(-scores, kind="stable")
        queries = queries[order]
        return ImageDetections(
            labels=labels[order],
            scores=scores[order],
            iou=self.iou[layer, queries],
            gt_labels=self.gt_labels,
            crowd=self.gt_crowd,
            ignored=self.ignored[queries],
            queries=queries,
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence of all images.

    Attributes:
        images: in the order of the data set.
        num_classes: K.
        rule: how detections are selected and scored.
        first_layer: decoder layer of the first of the S; L in a run that kept the last one only.
        every_class: whether the probabilities of all classes are known, and not only high ones.
        scorer: score by which remedies are measured.
        facts: of the passes of the unchanged model; None for a run.
    """

    images: Sequence[ImageEvidence]
    num_classes: int
    rule: InstanceRule = "mask2former"
    first_layer: int = 0
    every_class: bool = True
    scorer: Scorer = field(default_factory=APScorer)
    facts: "ModelFacts | None" = None
    _detections: dict[int, list[ImageDetections]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    _scores: dict[int, ImageScores] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    @property
    def num_layers(self) -> int:
        """Number of decoder layers after the first that is known."""
        return len(self.images[0].class_logits) - 1

    @property
    def num_queries(self) -> int:
        return int(self.images[0].class_logits.shape[1])

    def matched(self, layer: int = -1) -> WeightedAP:
        """Return the matched detections of a layer."""
        return weighted_ap(self.detections(layer), self.num_classes)

    def detections(self, layer: int = -1) -> Sequence[ImageDetections]:
        """Return the detections of each image in a layer; they are kept."""
        place = layer % (self.num_layers + 1)
        if place not in self._detections:
            found = [image.detections(self.rule, place) for image in self.images]
            self._detections[place] = found
        return self._detections[place]

    def scored(self, layer: int = -1) -> ImageScores:
        """Return the scores of the images in a layer; they are kept."""
        place = layer % (self.num_layers + 1)
        if place not in self._scores:
            self._scores[place] = self.scorer.score(self, place)
        return self._scores[place]

    def score(self, layer: int = -1) -> float:
        """Return AP, PQ or mIoU of a layer, by the task; NaN without GT."""
        return float(self.scored(layer).values()[0])

    def images_with_most(self, counts: npt.ArrayLike) -> list[int]:
        """Return the ids of the images with the highest of (I,) counts above 0, highest first."""
        values = np.asarray(counts)
        order = np.argsort(-values, kind="stable")[:IMAGES_SHOWN]
        return [self.images[place].image_id for place in order if values[place] > 0]

    def changed(self, images: Sequence[ImageEvidence]) -> Self:
        """Return a copy with other images."""
        return replace(self, images=images)


def softmax(logits: Values) -> Values:
    """Return the softmax over the last axis."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    total: Values = shifted / shifted.sum(-1, keepdims=True)
    return total
