"""mIoU of class maps, from a confusion matrix, as Cityscapes and detectron2 take it."""

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE = 255


@dataclass(frozen=True, slots=True)
class SemanticScores:
    """IoU of classes as fractions.

    The two means differ only where a class is predicted that no GT has: on a part of a data set.

    Attributes:
        miou: over classes with a pixel in GT or predictions (Cityscapes' scripts).
        miou_in_gt: over classes with a pixel in the GT (detectron2's SemSegEvaluator: ADE20K, and
            mIoU_pan).
        iou: (K,) float64, NaN for a class without a pixel in either.
    """

    miou: float
    miou_in_gt: float
    iou: Tensor


class SemanticIoU:
    """Gathers class maps in any order; `a + b` unites what two shards gathered.

    Pixels whose GT is `ignore_label` don't count, whatever is predicted there.
    """

    def __init__(self, num_classes: int, ignore_label: int = IGNORE) -> None:
        self.ignore_label = ignore_label
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, found: Tensor, truth: Tensor) -> None:
        """Add an image's class maps, (H, W) predicted and (H, W) GT, of any integer type."""
        self.confusion += confusion_matrix(found, truth, len(self.confusion), self.ignore_label)

    def __add__(self, other: "SemanticIoU") -> "SemanticIoU":
        """What both gathered. ValueError where classes or ignored label differ."""
        if (len(self.confusion), self.ignore_label) != (len(other.confusion), other.ignore_label):
            raise ValueError("shards of different classes can't be united")
        united = SemanticIoU(len(self.confusion), self.ignore_label)
        united.confusion = self.confusion + other.confusion
        return united

    def compute(self) -> SemanticScores:
        """The scores of all images so far."""
        return semantic_scores(self.confusion)


def confusion_matrix(
    found: Tensor, truth: Tensor, num_classes: int, ignore_label: int = IGNORE
) -> Tensor:
    """int64 (K, K) pixels of GT class (row) and predicted class (column), on the CPU.

    Raises:
        ValueError: the maps differ in size, or hold something else than the K classes.
    """
    if found.shape != truth.shape:
        raise ValueError(
            f"a class map of size {tuple(found.shape)} can't be compared with GT of size"
            f" {tuple(truth.shape)}"
        )
    truth = truth.to(found.device).long()
    counted = truth != ignore_label
    rows, columns = truth[counted], found[counted].long()
    for name, values in (("GT", rows), ("prediction", columns)):
        unknown = values[(values < 0) | (values >= num_classes)]
        if len(unknown):
            raise ValueError(
                f"the {name} has class {int(unknown[0])}, but classes are {num_classes}"
            )
    pairs = rows * num_classes + columns
    return pairs.bincount(minlength=num_classes**2).view(num_classes, num_classes).cpu()


def semantic_scores(confusion: Tensor) -> SemanticScores:
    """IoU = TP / (TP + FP + FN) of each class of a (K, K) confusion matrix, rows GT."""
    right = confusion.diagonal()
    in_truth, in_found = confusion.sum(1), confusion.sum(0)
    iou = right.double() / (in_truth + in_found - right)
    return SemanticScores(float(iou.nanmean()), float(iou[in_truth > 0].mean()), iou)


def class_map(masks: Tensor, labels: Tensor, ignore_label: int = IGNORE) -> Tensor:
    """int64 (H, W) class of each pixel of G disjoint masks (G, H, W), ignored where there is none.

    For mIoU_pan the masks are the panoptic GT with its crowds, which have a class.
    """
    classes = masks.new_full(masks.shape[1:], ignore_label, dtype=torch.int64)
    for mask, label in zip(masks, labels.tolist(), strict=True):
        classes[mask] = label
    return classes
