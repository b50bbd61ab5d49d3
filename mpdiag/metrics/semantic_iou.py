"""mIoU of class maps from a confusion matrix, as in Cityscapes and detectron2."""

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE = 255


@dataclass(frozen=True, slots=True)
class SemanticScores:
    """IoU of classes as fractions.

    The two means differ only if a class is predicted that no GT has, as on a part of a data set.

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
    """mIoU over class maps that are added in any order; `a + b` merges two shards.

    Pixels whose GT is `ignore_label` do not count. A pixel that is predicted as `ignore_label` has
    no predicted class, and counts as a miss of its GT class.
    """

    def __init__(self, num_classes: int, ignore_label: int = IGNORE) -> None:
        self.ignore_label = ignore_label
        self.confusion = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)

    def update(self, predicted: Tensor, ground_truth: Tensor) -> None:
        """Add the predicted and GT class maps of an image, (H, W) each, of any integer type."""
        self.confusion += confusion_matrix(
            predicted, ground_truth, len(self.confusion), self.ignore_label
        )

    def __add__(self, other: "SemanticIoU") -> "SemanticIoU":
        """Return the metric of both shards; ValueError if classes or ignored label differ."""
        if (len(self.confusion), self.ignore_label) != (len(other.confusion), other.ignore_label):
            raise ValueError("shards of different classes cannot be merged")
        merged = SemanticIoU(len(self.confusion), self.ignore_label)
        merged.confusion = self.confusion + other.confusion
        return merged

    def compute(self) -> SemanticScores:
        """Return the scores over all images."""
        return semantic_scores(self.confusion)


def confusion_matrix(
    predicted: Tensor, ground_truth: Tensor, num_classes: int, ignore_label: int = IGNORE
) -> Tensor:
    """Return int64 (K, K + 1) pixels of GT class (row) and predicted class (column), on the CPU.

    The last column has the pixels without a predicted class.

    Raises:
        ValueError: the maps differ in size, or contain other values than the K classes.
    """
    if predicted.shape != ground_truth.shape:
        raise ValueError(
            f"the class map has size {tuple(predicted.shape)} and the GT has size"
            f" {tuple(ground_truth.shape)}"
        )
    ground_truth = ground_truth.to(predicted.device).long()
    counted = ground_truth != ignore_label
    rows, columns = ground_truth[counted], predicted[counted].long()
    no_class = columns == ignore_label
    for name, values in (("GT", rows), ("prediction", columns[~no_class])):
        unknown = values[(values < 0) | (values >= num_classes)]
        if len(unknown):
            raise ValueError(
                f"the {name} has class {int(unknown[0])}, but there are {num_classes} classes"
            )
    pairs = rows * (num_classes + 1) + torch.where(no_class, num_classes, columns)
    shape = (num_classes, num_classes + 1)
    return pairs.bincount(minlength=shape[0] * shape[1]).view(shape).cpu()


def semantic_scores(confusion: Tensor) -> SemanticScores:
    """Return IoU = TP / (TP + FP + FN) of each class of a confusion matrix (K, K + 1), rows GT."""
    right = confusion.diagonal()
    in_gt, in_predicted = confusion.sum(1), confusion[:, :-1].sum(0)
    iou = right.double() / (in_gt + in_predicted - right)
    return SemanticScores(float(iou.nanmean()), float(iou[in_gt > 0].mean()), iou)


def class_map(masks: Tensor, labels: Tensor, ignore_label: int = IGNORE) -> Tensor:
    """Return the int64 (H, W) class map of disjoint masks (G, H, W); other pixels are ignored.

    For mIoU_pan pass the panoptic GT with its crowds, which have a class.
    """
    classes = masks.new_full(masks.shape[1:], ignore_label, dtype=torch.int64)
    for mask, label in zip(masks, labels.tolist(), strict=True):
        classes[mask] = label
    return classes
