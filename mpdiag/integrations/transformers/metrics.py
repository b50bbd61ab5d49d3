"""`compute_metrics` of transformers' Trainer: AP, PQ or mIoU of segmentation models."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpdiag.choices import Task
from mpdiag.data import ClassInfo, GroundTruth
from mpdiag.errors import ConfigError
from mpdiag.evaluation import (
    Evaluator,
    InstanceEvaluator,
    PanopticEvaluator,
    SemanticEvaluator,
)
from mpdiag.integrations.batch import find_targets
from mpdiag.integrations.valid_targets import valid_targets
from mpdiag.matching import Target
from mpdiag.models import ImageSizes
from mpdiag.recording import family_of


class SegmentationMetrics:
    """Computes COCO's AP, PQ or mIoU batch by batch, without a copy of all predictions:

        args = TrainingArguments(..., batch_eval_metrics=True, eval_do_concat_batches=False)
        trainer = Trainer(model, args, ..., compute_metrics=SegmentationMetrics(model))

    Scores are fractions, named as in summary.json: `ap`, `ap50`, ...; `pq`, ...; or `miou`. They
    are measured on the labels that the model receives: at their size, with their padding, and
    without crowds. For scores at the size of the image files, use `mpdiag analyze`.
    """

    def __init__(
        self, model: nn.Module, task: Task = "instance", things: Sequence[bool] | None = None
    ) -> None:
        """Prepare for a model.

        Args:
            model: a segmentation model of transformers; its `config.id2label` has the classes.
            task: instance (AP), panoptic (PQ) or semantic (mIoU).
            things: whether each class is a thing class, for a panoptic task; all if None.

        Raises:
            ConfigError: `things` is not one value for each class.
        """
        config: Any = model.config
        labels = config.id2label
        self._task, self._rule = task, family_of(model).instance_rule
        are_things = [True] * len(labels) if things is None else list(things)
        if len(are_things) != len(labels):
            raise ConfigError(
                f"SegmentationMetrics: things has {len(are_things)} values, but the model has "
                f"{len(labels)} classes; give one for each"
            )
        self._classes = [
            ClassInfo(index, labels[index], isthing) for index, isthing in enumerate(are_things)
        ]
        self.reset()

    def __call__(self, predictions: Any, compute_result: bool = True) -> dict[str, float]:
        """Add the predictions of a batch; with `compute_result` return the scores and start anew.

        Raises:
            ConfigError: the trainer passes all batches at once, or its outputs are not those of a
                segmentation model.
            DataError: labels are invalid.
        """
        outputs = [x for x in predictions.predictions if isinstance(x, Tensor)]
        class_logits = next((x for x in outputs if x.ndim == 3), None)
        masks = next((x for x in outputs if x.ndim == 4), None)
        targets = _targets(predictions.label_ids)
        if class_logits is None or masks is None or targets is None or len(targets) != len(masks):
            raise ConfigError(
                "SegmentationMetrics: can't find class logits, mask logits and labels of a batch; "
                "set batch_eval_metrics=True and eval_do_concat_batches=False in "
                "TrainingArguments"
            )
        if class_logits.shape[-1] == len(self._classes):
            class_logits = F.pad(class_logits, (0, 1))  # models without a no-object class
        targets = valid_targets(targets, len(self._classes))
        for own_classes, own_masks, target in zip(class_logits, masks, targets, strict=True):
            self._add(own_classes, own_masks, target)
        if not compute_result:
            return {}
        scores = {k: v for k, v in self._evaluator.scores().items() if v is not None}
        self.reset()
        return scores

    def reset(self) -> None:
        """Forget the batches so far; call it after an evaluation that was interrupted."""
        self._images = 0
        self._evaluator: Evaluator
        if self._task == "instance":
            self._evaluator = InstanceEvaluator(self._classes, self._rule)
        elif self._task == "panoptic":
            self._evaluator = PanopticEvaluator(self._classes)
        else:
            self._evaluator = SemanticEvaluator(self._classes)

    def _add(self, class_logits: Tensor, mask_logits: Tensor, target: Target) -> None:
        self._images += 1
        size = (target["masks"].shape[-2], target["masks"].shape[-1])
        found = self._evaluator.postprocess(
            class_logits.float(), mask_logits.float(), ImageSizes(size, size, size)
        )
        masks = target["masks"].cpu()
        truth = GroundTruth(
            masks=masks,
            labels=target["labels"].cpu(),
            crowd=torch.zeros(len(masks), dtype=torch.bool),
            areas=masks.flatten(1).sum(1).double(),
        )
        self._evaluator.update(self._images, found, truth)


def _targets(label_ids: Any) -> list[Target] | None:
    """Read the labels: dictionaries, or mask and class labels in the order of the model."""
    found = find_targets(label_ids)
    if found is not None or not isinstance(label_ids, Sequence) or len(label_ids) != 2:
        return found
    masks, labels = sorted(label_ids, key=lambda one: -_dimensions(one))
    return find_targets({"mask_labels": masks, "class_labels": labels})


def _dimensions(labels: Any) -> int:
    """Return the number of dimensions of the labels of an image."""
    return max((int(one.ndim) for one in labels), default=0)
