"""What a newly trained last layer of the mask head would gain.

It is trained on half of the images and applied to the other half, and starts from the weights of
the model.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpdiag.analysis.adapter import PreprocessedImage, batch_targets
from mpdiag.diagnosis.candidate import Candidate
from mpdiag.diagnosis.evidence import Evidence, ImageEvidence
from mpdiag.diagnosis.facts import sample_rows
from mpdiag.diagnosis.probe import LAYERS, Head, assigned_gt, fit_head
from mpdiag.diagnosis.trials import Trials
from mpdiag.metrics.rows import gt_on_grid
from mpdiag.models import Mask2Former

FOLDS = 2
POINTS = 576  # of an image
MAX_PAIRS = 4000  # of query and GT
MIN_IOU = 0.2
MIN_PAIRS = 40
STEPS = 30
PENALTIES = (0.1, 0.01)
MIN_IMPROVEMENT = 0.02  # of the loss on the images that were left out


@dataclass(frozen=True, slots=True)
class Pairs:
    """Queries that match a GT of one image.

    Attributes:
        states: (M, C) inputs of the last layer of the mask head.
        features: (C', P) mask features at points.
        targets: (M, P) GT at these points, 0 or 1.
    """

    states: Tensor
    features: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "Pairs":
        """Return the pairs on a device."""
        return Pairs(self.states.to(device), self.features.to(device), self.targets.to(device))


def check_mask_head(trials: Trials) -> Iterator[Candidate]:
    """Yield the predictions with a new last layer of the mask head, if its loss is lower."""
    model = trials.collector.adapter.module
    if not isinstance(model, Mask2Former):
        return
    last = model.decoder.mask_embed.layers[-1]
    weight, bias = (last.get_parameter(name).detach().clone() for name in ("weight", "bias"))
    own = Head(weight, bias)
    pairs = _collect_pairs(trials, model)
    if sum(len(one.states) for one in pairs) < MIN_PAIRS:
        return
    before = _left_out_loss([own] * FOLDS, pairs)
    fitted = [_fit_folds(pairs, own, penalty) for penalty in PENALTIES]
    losses = [_left_out_loss(heads, pairs) for heads in fitted]
    heads, after = min(zip(fitted, losses, strict=True), key=lambda one: one[1])
    if not after <= (1 - MIN_IMPROVEMENT) * before:  # also if it is NaN
        return
    images: dict[int, ImageEvidence] = {}
    for fold, head in enumerate(heads):
        places = range(fold, len(pairs), FOLDS)
        with _replaced(last, head):
            indices = [trials.collector.indices[place] for place in places]
            found = trials.collector.collect(every_layer=True, indices=indices, stored=False)
        images |= dict(zip(places, found.images, strict=True))
    ordered = [images[place] for place in range(len(pairs))]
    yield Candidate(
        "mask-head",
        edit=partial(_use, images=ordered),
        evidence={"loss_of_the_model": before, "loss_of_a_new_head": after},
    )


def _use(evidence: Evidence, images: Sequence[ImageEvidence]) -> Evidence:
    return evidence.changed(images)


@torch.inference_mode()
def _collect_pairs(trials: Trials, model: Mask2Former) -> list[Pairs]:
    """Return the queries of the last layers with their GT, for each image."""
    collector = trials.collector
    states: list[Tensor] = []
    features: list[Tensor] = []

    def keep_state(module: Any, args: tuple[Tensor, ...]) -> None:
        states.append(args[0])

    def keep_features(module: Any, args: tuple[Any, ...]) -> None:
        states.clear()
        features[:] = [args[1]]

    handles = [
        model.decoder.mask_embed.layers[-1].register_forward_pre_hook(keep_state),
        model.decoder.register_forward_pre_hook(keep_features),
    ]
    images = {image.image_id: image for image in trials.base.images}

    def measure(batch: Sequence[PreprocessedImage]) -> list[Pairs]:
        targets = batch_targets(batch, collector.device)
        collector.adapter.predict(batch, targets, attention=False)
        recent = torch.stack(states[-LAYERS:])
        pairs = []
        for index, (image, target) in enumerate(zip(batch, targets, strict=True)):
            own = recent[:, index], features[0][index]
            masks = gt_on_grid(target["masks"], *own[1].shape[-2:])
            pairs.append(_pairs_of(images[image.sample.image_id], *own, masks))
        return pairs

    try:
        pairs = chain.from_iterable(collector.measure_batches(collector.indices, measure))
        return [one.to(collector.device) for one in pairs]
    finally:
        for handle in handles:
            handle.remove()


def _pairs_of(image: ImageEvidence, states: Tensor, features: Tensor, masks: Tensor) -> Pairs:
    cells = features[0].numel()
    generator = torch.Generator().manual_seed(image.image_id)
    points = torch.randperm(cells, generator=generator)[:POINTS].to(features.device)
    row_of = sample_rows(image, len(masks))
    chosen, rows = [], []
    for layer in range(-min(len(states), len(image.iou)), 0):
        for query, gt in enumerate(assigned_gt(image, MIN_IOU, layer).tolist()):
            if gt in row_of:
                chosen.append(states[layer, query])
                rows.append(row_of[gt])
    stacked = torch.stack(chosen) if chosen else states.new_zeros(0, states.shape[-1])
    targets = masks.flatten(1)[rows][:, points] if rows else masks.new_zeros(0, len(points))
    found = Pairs(stacked, features.flatten(1)[:, points], targets.float())
    return found.to(torch.device("cpu"))  # another process would get a tensor of this one's GPU


def _loss(head: Head, pairs: Sequence[Pairs]) -> Tensor:
    """Return the mean of cross-entropy plus dice loss over all pairs."""
    total, count = torch.zeros(()), 0
    for one in pairs:
        if len(one.states):
            logits = head(one.states) @ one.features
            probability = logits.sigmoid()
            shared = (probability * one.targets).sum(-1)
            dice = 1 - (2 * shared + 1) / (probability.sum(-1) + one.targets.sum(-1) + 1)
            entropy = F.binary_cross_entropy_with_logits(logits, one.targets, reduction="none")
            total = total + (entropy.mean(-1) + dice).sum().cpu()
            count += len(one.states)
    return total / max(count, 1)


def _fit_folds(pairs: Sequence[Pairs], start: Head, penalty: float) -> list[Head]:
    """Return a head for each fold, which did not see its images."""
    return [
        _fit([one for place, one in enumerate(pairs) if place % FOLDS != fold], start, penalty)
        for fold in range(FOLDS)
    ]


def _left_out_loss(heads: Sequence[Head], pairs: Sequence[Pairs]) -> float:
    losses = [float(_loss(head, pairs[fold::FOLDS])) for fold, head in enumerate(heads)]
    return sum(losses) / FOLDS


def _fit(pairs: Sequence[Pairs], start: Head, penalty: float) -> Head:
    count = 0
    used = []
    for one in pairs:
        if count < MAX_PAIRS:
            used.append(Pairs(one.states.clone(), one.features.clone(), one.targets.clone()))
            count += len(one.states)
    return fit_head(start, lambda head: _loss(head, used), penalty, STEPS)


@contextmanager
def _replaced(linear: nn.Module, head: Head) -> Iterator[None]:
    handle = linear.register_forward_hook(lambda module, args, output: head(args[0]))
    try:
        yield
    finally:
        handle.remove()
