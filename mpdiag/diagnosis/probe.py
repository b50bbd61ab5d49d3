"""A class head trained on the recorded queries, to see what a better head would gain.

A linear classifier from the query features of the last layer to classes and no-object is fitted on
some images and applied to the others (cross-validation over images), so that it never sees the GT
of an image that it is applied to. Linear probes are from Alain and Bengio, Understanding
intermediate layers using linear classifier probes (2016).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.diagnosis.evidence import Evidence, Float32, ImageEvidence
from mpdiag.diagnosis.matched import Ints

FOLDS = 4
MATCH_IOU = 0.5
WEIGHT_DECAY = 3e-4
STEPS = 60


def assigned_gt(image: ImageEvidence, limit: float = MATCH_IOU) -> Ints:
    """Return the (N,) GT of each query in the last layer, -1 for none.

    Pairs are taken by descending IoU, from `limit` on, each query and GT once.
    """
    iou = np.where(image.gt_crowd, 0, image.iou[-1])
    result = np.full(len(iou), -1)
    pairs = np.argwhere(iou >= limit)
    order = np.argsort(-iou[pairs[:, 0], pairs[:, 1]], kind="stable")
    used: set[int] = set()
    for query, gt in pairs[order].tolist():
        if result[query] < 0 and gt not in used:
            result[query] = gt
            used.add(gt)
    return result


@dataclass(frozen=True, slots=True)
class ProbedHead:
    """Class logits (N, K + 1) of each image from a head that did not see the image."""

    logits: Sequence[Float32]


def probe_class_head(evidence: Evidence, excluded: Sequence[int] = ()) -> ProbedHead | None:
    """Fit the class head on the features of the last layer; None without features or GT.

    Args:
        evidence: the evidence.
        excluded: queries that are not trained on.
    """
    images = evidence.images
    if len(images) < 2 * FOLDS or any(image.features is None for image in images):
        return None
    features = np.stack([image.features for image in images if image.features is not None])
    targets = np.stack([_targets(image, evidence.num_classes) for image in images])
    if (targets < evidence.num_classes).sum() < 2 * evidence.num_classes:
        return None
    x = torch.from_numpy(features).double()
    if not x.isfinite().all():
        return None
    x = F.layer_norm(x, x.shape[-1:])
    y = torch.from_numpy(targets)
    trained_on = torch.ones(x.shape[1], dtype=torch.bool)
    trained_on[list(excluded)] = False
    fold = torch.arange(len(images)) % FOLDS
    logits = torch.zeros(*x.shape[:2], evidence.num_classes + 1, dtype=torch.double)
    for number in range(FOLDS):
        rest = fold != number
        weight, bias = _fit(
            x[rest][:, trained_on].flatten(0, 1), y[rest][:, trained_on].flatten(),
            evidence.num_classes + 1,
        )  # fmt: skip
        logits[~rest] = x[~rest] @ weight.T + bias
    return ProbedHead(list(logits.float().numpy()))


def _targets(image: ImageEvidence, num_classes: int) -> Ints:
    gt = assigned_gt(image)
    labels = np.append(image.gt_labels, num_classes)
    return labels[gt]


def _fit(x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Fit multinomial logistic regression by L-BFGS."""
    weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, y) + WEIGHT_DECAY * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach(), bias.detach()
