"""Class heads fitted to the recorded queries, to see what a better head would gain.

A linear classifier from query features to classes and no-object is fitted on some images and
applied to the others (cross-validation over images), so that it never sees the GT of an image that
it is applied to. Linear probes are from Alain and Bengio, Understanding intermediate layers using
linear classifier probes (2016). As in training, the head is shared by all layers and no-object has
the weight 0.1 in the loss.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.diagnosis.evidence import Evidence, Float32, ImageEvidence
from mpdiag.metrics.image_scores import Floats
from mpdiag.metrics.weighted_ap import Ints

FOLDS = 4
MATCH_IOU = 0.5
NO_OBJECT_WEIGHT = 0.1
PENALTIES = (1.0, 0.1, 0.01)
OBJECTNESS_PENALTY = 0.01
MIN_QUALITY = 1e-3
MIN_AREA = 1e-3
LAYERS = 10  # last layers that are trained on, at most
MAX_ROWS = 50_000  # queries that are trained on, from which on there are fewer layers
STEPS = 40
MIN_EXPLAINED = 0.99


def assigned_gt(image: ImageEvidence, limit: float = MATCH_IOU, layer: int = -1) -> Ints:
    """Return the (N,) GT of each query in a layer, -1 for none.

    Pairs are taken by descending IoU, from `limit` on, each query and GT once.
    """
    iou = np.where(image.gt_crowd, 0, image.iou[layer])
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
class Head:
    """A linear head: logits = features @ weight.T + bias.

    Attributes:
        weight: (K + 1, C).
        bias: (K + 1,).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        return features @ self.weight.T + self.bias


class Features:
    """Normalised query features (I, S, N, C) of the last layers, with their targets."""

    def __init__(self, evidence: Evidence) -> None:
        images = evidence.images
        enough = max(MAX_ROWS // (len(images) * evidence.num_queries), 1)
        layers = min(LAYERS, len(images[0].class_logits), enough)
        stacked = np.stack([x.features[-layers:] for x in images if x.features is not None])
        x = torch.from_numpy(stacked).double()
        self.values = F.layer_norm(x, x.shape[-1:])
        self.logits = torch.from_numpy(
            np.stack([image.class_logits[-layers:] for image in images])
        ).double()
        classes = evidence.num_classes
        targets = [
            [target_labels(image, classes, layer) for layer in range(-layers, 0)]
            for image in images
        ]
        self.targets = torch.from_numpy(np.array(targets))

    @classmethod
    def read(cls, evidence: Evidence) -> "Features | None":
        """Return the features; None if they were not recorded, are not finite or too few."""
        if len(evidence.images) < 2 * FOLDS:
            return None
        if any(x.features is None or not np.isfinite(x.features).all() for x in evidence.images):
            return None
        features = cls(evidence)
        objects = int((features.targets[:, -1] < evidence.num_classes).sum())
        return features if objects >= 2 * evidence.num_classes else None

    def model_head(self, queries: Sequence[int]) -> Head | None:
        """Return the linear head that gives the model's own logits of these queries.

        It is found by least squares. None if the logits are not linear in the features.
        """
        x = self.values[:, -1:, queries].flatten(0, 2)
        y = self.logits[:, -1:, queries].flatten(0, 2)
        extended = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        solution = torch.linalg.lstsq(extended, y, driver="gelsd").solution
        rest = (extended @ solution - y).var()
        if rest > (1 - MIN_EXPLAINED) * y.var():
            return None
        return Head(solution[:-1].T, solution[-1])

    def apply(self, head: Head) -> list[Float32]:
        """Return the logits (N, K + 1) of the last layer of each image."""
        return list(head(self.values[:, -1]).float().numpy())


def fit_class_head(features: Features) -> list[Float32]:
    """Return the logits (N, K + 1) of each image from heads that did not see the image.

    The penalty keeps the head near that of the model. Its weight is the one with the lowest loss on
    the first fold, which was left out.
    """
    classes = features.logits.shape[-1]
    queries = list(range(features.values.shape[2]))
    own = features.model_head(queries)
    start = own or Head(
        torch.zeros(classes, features.values.shape[-1]).double(), torch.zeros(classes).double()
    )
    weights = torch.ones(classes).double()
    weights[-1] = NO_OBJECT_WEIGHT
    fold = torch.arange(len(features.values)) % FOLDS

    def left_out(number: int, penalty: float) -> tuple[float, Tensor]:
        """Return the loss on a fold, and its logits, from a head fitted to the other folds."""
        rest = fold != number
        x, y = features.values[rest].flatten(0, 2), features.targets[rest].flatten()
        logits = _fit(x, y, start, weights, penalty)(features.values[~rest, -1])
        targets = features.targets[~rest, -1].flatten()
        return float(F.cross_entropy(logits.flatten(0, 1), targets, weights)), logits

    tried = {penalty: left_out(0, penalty) for penalty in PENALTIES}
    penalty = min(tried, key=lambda one: tried[one][0])
    logits = torch.zeros_like(features.logits[:, -1])
    logits[fold == 0] = tried[penalty][1]
    for number in range(1, FOLDS):
        logits[fold == number] = left_out(number, penalty)[1]
    return list(logits.float().numpy())


def fit_objectness(evidence: Evidence, features: Features) -> list[Floats]:
    """Return the log odds (N,) of an object of each image, from heads that did not see the image.

    They are linear in the query features, the class logits, and quality and area of the mask.
    """
    layers = features.values.shape[1]
    stacked = [
        np.stack([getattr(image, name)[-layers:] for image in evidence.images])
        for name in ("quality", "area")
    ]
    quality, area = (torch.from_numpy(np.nan_to_num(x)).double()[..., None] for x in stacked)
    classes = features.logits[..., :-1]
    x = torch.cat(
        [
            classes,
            classes.logsumexp(-1, keepdim=True),
            classes.amax(-1, keepdim=True),
            quality.logit(MIN_QUALITY),
            (area + MIN_AREA).log(),
            (area + MIN_AREA).log().square(),
        ],
        -1,
    )
    x = (x - x.mean((0, 1, 2))) / x.std((0, 1, 2)).clamp(min=1e-6)
    x = torch.cat([x, features.values], -1)
    y = (features.targets < evidence.num_classes).long()
    start = Head(torch.zeros(2, x.shape[-1]).double(), torch.zeros(2).double())
    weights = torch.tensor([NO_OBJECT_WEIGHT, 1.0]).double()
    fold = torch.arange(len(x)) % FOLDS
    odds = torch.zeros(len(x), x.shape[2]).double()
    for number in range(FOLDS):
        rest = fold != number
        head = _fit(x[rest].flatten(0, 2), y[rest].flatten(), start, weights, OBJECTNESS_PENALTY)
        odds[~rest] = head(x[~rest, -1]).diff()[..., 0]
    return list(odds.numpy())


def target_labels(image: ImageEvidence, num_classes: int, layer: int = -1) -> Ints:
    """Return the (N,) class of each query's GT in a layer, K for no-object."""
    labels = np.append(image.gt_labels, num_classes)
    return labels[assigned_gt(image, layer=layer)]


def _fit(x: Tensor, y: Tensor, start: Head, weights: Tensor, penalty: float) -> Head:
    """Fit multinomial logistic regression in float32, which changes gains by less than 0.01 AP."""
    x, weights = x.float(), weights.float()
    near = Head(start.weight.float(), start.bias.float())
    head = fit_head(near, lambda head: F.cross_entropy(head(x), y, weights), penalty, STEPS)
    return Head(head.weight.double(), head.bias.double())


def fit_head(start: Head, loss: Callable[[Head], Tensor], penalty: float, steps: int) -> Head:
    """Minimise a loss by L-BFGS, with a penalty on the distance of the weights to `start`."""
    weight, bias = (x.clone().requires_grad_() for x in (start.weight, start.bias))
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(Head(weight, bias))
        distance = (weight - start.weight).square().sum()
        value = value + penalty * distance.to(value.device)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    return Head(weight.detach(), bias.detach())
