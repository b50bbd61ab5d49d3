"""How good a model's last layer is, by the measure of its task: AP, PQ or mIoU."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from mpdiag.data import ClassInfo, SegmentationDataset, Truth
from mpdiag.metrics import (
    AveragePrecision,
    PanopticQuality,
    SemanticIoU,
    class_map,
    segment_map,
)
from mpdiag.models import (
    InstanceRule,
    PanopticSegments,
    Sizes,
    instance_inference,
    panoptic_inference,
    semantic_inference,
)
from mpdiag.store import rle

Scores = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Found:
    """D masks that a model gives for one image, at the size of its file; on the CPU.

    scores   float (D,), 1 where the task has none
    labels   int64 (D,), class index
    queries  int64 (D,), which query each comes from; -1 where several may have a part in it
    size     (height, width)
    counts   the masks as COCO's compressed run lengths
    """

    scores: Tensor
    labels: Tensor
    queries: Tensor
    size: tuple[int, int]
    counts: Sequence[bytes]

    @property
    def masks(self) -> Tensor:
        """Bool (D, H, W)."""
        masks = np.zeros((len(self.counts), *self.size), dtype=np.bool_)
        for row, counts in enumerate(self.counts):
            masks[row] = rle.decode(counts, *self.size)
        return torch.from_numpy(masks)


class Evaluator:
    """Judges a model on a data set by the measure of its task.

    Images may come in any order, each once. `a + b` unites what two processes gathered, to the
    same bits as one would have. A sum, and an evaluator that was pickled, has left the data set
    behind: it only adds and gives scores.
    """

    def __init__(self, dataset: SegmentationDataset, rule: InstanceRule = "mask2former") -> None:
        """`rule` is whose post-processing gives instances; the other tasks have one."""
        self._dataset = dataset
        self._judge: _Judge
        if dataset.task == "instance":
            self._judge = _Instances(dataset.classes, rule)
        else:
            self._judge = _MAPS[dataset.task](dataset.classes)

    @property
    def headline(self) -> str:
        """The name of the score by which models are compared: "ap", "pq" or "miou"."""
        return self._judge.headline

    def find(self, class_logits: Tensor, mask_logits: Tensor, sizes: Sizes) -> Found:
        """What the last layer's predictions (N, K + 1) and (N, h, w) of one image come to.

        The post-processing is Mask2Former's, or for instances another's, if that was chosen;
        semantic models resize class scores, not masks.
        """
        return self._judge.find(class_logits, mask_logits, sizes)

    def update(self, index: int, found: Found) -> None:
        """Compare what was found on an image with the data set's truth.

        Raises DataError where the truth can't be read.
        """
        image_id, truth = self._dataset.image_ids[index], self._dataset.truth(index)
        self._judge.update(image_id, found, truth)

    def __add__(self, other: "Evaluator") -> "Evaluator":
        """What both gathered. ValueError where tasks or classes differ, or an image is in both."""
        if self.headline != other.headline:
            raise ValueError("evaluators of different tasks can't be united")
        united = copy(self)
        united._judge = self._judge + other._judge
        return united

    def __getstate__(self) -> dict[str, Any]:
        return {"_judge": self._judge}

    def scores(self) -> Scores:
        """Fractions by name, None where no GT counts.

        Instances: ap, ap50, ap75, ap_small, ap_medium, ap_large. Panoptic: pq, sq and rq over all
        classes, and with _things and _stuff. Semantic: miou and miou_in_gt, over the classes with
        a pixel in GT or predictions, and in the GT.
        """
        known = self._judge.scores().items()
        return {name: None if math.isnan(value) else value for name, value in known}


class _Judge(ABC):
    """The measure of one task; it knows the classes, not the data set."""

    headline: ClassVar[str]
    _measure: Any  # what `+` unites

    @abstractmethod
    def __init__(self, classes: Sequence[ClassInfo]) -> None: ...

    @abstractmethod
    def find(self, class_logits: Tensor, mask_logits: Tensor, sizes: Sizes) -> Found: ...

    @abstractmethod
    def update(self, image_id: int, found: Found, truth: Truth) -> None: ...

    @abstractmethod
    def scores(self) -> dict[str, float]: ...

    def __add__(self, other: Self) -> Self:
        united = copy(self)
        united._measure = self._measure + other._measure
        return united


class _Instances(_Judge):
    """AP of instances: COCO's averages."""

    headline = "ap"

    def __init__(self, classes: Sequence[ClassInfo], rule: InstanceRule = "mask2former") -> None:
        self._measure = AveragePrecision(range(len(classes)))
        self._rule = rule

    def find(self, class_logits: Tensor, mask_logits: Tensor, sizes: Sizes) -> Found:
        found = instance_inference(class_logits, mask_logits, sizes, rule=self._rule)
        return _found(found.masks, found.labels, found.scores, found.queries)

    def update(self, image_id: int, found: Found, truth: Truth) -> None:
        self._measure.update_encoded(
            image_id, found, truth.masks, truth.labels, truth.crowd, truth.areas
        )

    def scores(self) -> dict[str, float]:
        averages = self._measure.compute()
        names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
        return {name: getattr(averages, name) for name in names}


class _Panoptic(_Judge):
    """PQ of disjoint segments."""

    headline = "pq"

    def __init__(self, classes: Sequence[ClassInfo]) -> None:
        self._things = [info.isthing for info in classes]
        self._measure = PanopticQuality(self._things)

    def find(self, class_logits: Tensor, mask_logits: Tensor, sizes: Sizes) -> Found:
        found = panoptic_inference(class_logits, mask_logits, sizes, things=self._things)
        numbers = torch.arange(1, len(found.labels) + 1, device=found.ids.device)
        return _found(found.ids == numbers[:, None, None], found.labels)

    def update(self, image_id: int, found: Found, truth: Truth) -> None:
        self._measure.update(
            PanopticSegments(segment_map(found.masks), found.labels),
            PanopticSegments(segment_map(truth.masks), truth.labels),
            truth.crowd,
        )

    def scores(self) -> dict[str, float]:
        scores = self._measure.compute()
        groups = {"": scores.all, "_things": scores.things, "_stuff": scores.stuff}
        return {
            f"{name}{suffix}": getattr(group, name)
            for suffix, group in groups.items()
            for name in ("pq", "sq", "rq")
        }


class _Semantic(_Judge):
    """mIoU of class maps."""

    headline = "miou"

    def __init__(self, classes: Sequence[ClassInfo]) -> None:
        self._measure = SemanticIoU(len(classes))

    def find(self, class_logits: Tensor, mask_logits: Tensor, sizes: Sizes) -> Found:
        classes = semantic_inference(class_logits, mask_logits, sizes, resize_scores=True)
        labels = classes.unique()
        return _found(classes == labels[:, None, None], labels)

    def update(self, image_id: int, found: Found, truth: Truth) -> None:
        self._measure.update(
            class_map(found.masks, found.labels), class_map(truth.masks, truth.labels)
        )

    def scores(self) -> dict[str, float]:
        scores = self._measure.compute()
        return {"miou": scores.miou, "miou_in_gt": scores.miou_in_gt}


def _found(
    masks: Tensor, labels: Tensor, scores: Tensor | None = None, queries: Tensor | None = None
) -> Found:
    """Masks (D, H, W) as they are kept; without scores and queries, those of a task without."""
    count, height, width = masks.shape
    return Found(
        torch.ones(count) if scores is None else scores.cpu(),
        labels.cpu(),
        torch.full((count,), -1) if queries is None else queries.cpu(),
        (height, width),
        [rle.encode(mask) for mask in masks.cpu().numpy()],
    )


_MAPS: dict[str, type[_Judge]] = {
    "panoptic": _Panoptic,
    "semantic": _Semantic,
}
