"""Changes to the forward pass that may explain lost AP: input, shifted masks, attention masks."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from mpdiag.diagnosis.candidate import Candidate
from mpdiag.diagnosis.changes import Changes, Normalisation, can_change_input, can_change_scale
from mpdiag.diagnosis.checks.pixels import received_pixels
from mpdiag.diagnosis.evidence import Evidence, ImageEvidence
from mpdiag.diagnosis.probe import assigned_gt
from mpdiag.diagnosis.trials import SCREENED, Trials
from mpdiag.metrics.image_scores import Floats
from mpdiag.models import Mask2Former
from mpdiag.recording import InstanceRule

NORMALISATIONS = {
    "ImageNet": Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "Caffe": Normalisation((103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
    "-1..1": Normalisation((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "0..1": Normalisation((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "0..255": Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "CLIP": Normalisation((122.7709, 116.746, 104.0937), (68.5005, 66.6322, 70.3232)),
}
SCALES = (0.5, 0.71, 1.41, 2.0)
MIN_OBJECTS = 20
MIN_SHIFT = 0.2  # cells
SHIFT_STEP = 0.25
SHIFT_ROUNDS = 3
MIN_DISAGREEMENT = 0.02  # of attention masks and predicted masks
MIN_CHOICE_GAIN = 0.01
"""AP on the first images of channels chosen by confidence, which gain a little by chance."""
MIN_NORMALISATION_GAIN = 0.03
"""AP on the first images, if the pixels arrive as the checkpoint states. A change of contrast gains
a little by chance."""


def check_normalisation(trials: Trials) -> Iterator[Candidate]:
    """Yield the known normalisation with the highest AP.

    That of the checkpoint is tried only if the channels arrive at the backbone as those of the
    image with a scale and an offset. It would undo any other change of the pixels, too.
    """
    collector = trials.collector
    module = collector.adapter.module
    if not isinstance(module, Mask2Former):
        return
    own = Normalisation(
        tuple(map(float, module.config.pixel_mean)), tuple(map(float, module.config.pixel_std))
    )
    known = {name: one for name, one in NORMALISATIONS.items() if one != own}
    pixels = received_pixels(collector, collector.indices[:SCREENED])
    if all(one.are_scaled for one in pixels):
        known["of the checkpoint"] = own
    changes = {name: Changes(normalisation=one) for name, one in known.items()}
    as_stated = all(one.are_as_stated for one in pixels)
    best = trials.best("normalisation", changes, MIN_NORMALISATION_GAIN if as_stated else 0)
    if best is not None:
        yield Candidate("normalisation", changes=best[1], evidence={"better": best[0]})


def check_channels(trials: Trials) -> Iterator[Candidate]:
    """Yield the exchange of red and blue, for all images or for those that it suits."""
    collector = trials.collector
    if not can_change_input(collector.adapter):
        return
    changes = Changes(swap_channels=True)
    # All layers, because images of both are compared as one evidence.
    own, other = trials.first, trials.collect(changes, every_layer=True)
    gain = trials.gains["channel-order all"] = other.score() - own.score()
    if gain > 0:
        yield Candidate("channel-order", changes=changes, evidence={"which_images": "all"})
    swapped = [one.are_swapped for one in received_pixels(collector, collector.indices)]
    if any(swapped) and not all(swapped):
        every = collector.collect(changes, every_layer=True)
        yield Candidate(
            "channel-order",
            edit=partial(_choose, other=every, chosen=swapped),
            evidence={"which_images": "those that arrive with red and blue exchanged"},
        )
    elif _more_confident(own, other).score() - own.score() >= MIN_CHOICE_GAIN:
        every = collector.collect(changes, every_layer=True)
        yield Candidate(
            "channel-order",
            edit=partial(_more_confident, other=every),
            evidence={"which_images": "those that are more confident with it"},
        )


def _choose(evidence: Evidence, other: Evidence, chosen: Sequence[bool]) -> Evidence:
    """Take the chosen images from `other`."""
    rows = zip(evidence.images, other.images, chosen, strict=True)
    return evidence.changed([new if take else own for own, new, take in rows])


def _more_confident(evidence: Evidence, other: Evidence) -> Evidence:
    """Choose each image from the evidence in which its predictions are more confident."""
    pairs = zip(evidence.images, other.images, strict=True)
    confidence = partial(_confidence, rule=evidence.rule)
    return evidence.changed([max(pair, key=confidence) for pair in pairs])


def _confidence(image: ImageEvidence, rule: InstanceRule) -> float:
    return float(image.class_scores(rule).max(-1).sum())


def check_scale(trials: Trials) -> Iterator[Candidate]:
    """Yield the size of the input with the highest AP.

    If images have the size of their files, larger ones are not tried: they hold no more
    information, and most models gain a little from them.
    """
    adapter = trials.collector.adapter
    if not can_change_scale(adapter):
        return
    resized = getattr(adapter, "resize", None) is not None
    changes = {f"{scale} x": Changes(scale=scale) for scale in SCALES if resized or scale < 1}
    if resized:
        changes["of the image files"] = Changes(scale=None)
    best = trials.best("input-scale", changes)
    if best is not None:
        yield Candidate("input-scale", changes=best[1], evidence={"better": best[0]})


def check_shift(trials: Trials) -> Iterator[Candidate]:
    """Yield the shift that brings the centres of masks to those of their GT."""
    total = np.zeros(2)
    evidence = trials.base
    for _ in range(SHIFT_ROUNDS):  # with a large shift, only some masks overlap their GT
        offset = median_offset(evidence)
        if np.abs(offset).max() < MIN_SHIFT:
            break
        total += offset
        evidence = trials.collect(Changes(shift=_opposite(total)))
    if np.abs(total).max() >= MIN_SHIFT:
        around = SHIFT_STEP * np.array([(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)])
        shifts = [_opposite(total + near) for near in around]
        changes = {str(one): Changes(shift=one) for one in shifts}
        changes |= {
            f"{one}, deblurred": Changes(shift=one, deblurred=True)
            for one in shifts
            if any(cells % 1 for cells in one)
        }
        best = trials.best("mask-offset", changes)
        chosen = Changes(shift=_opposite(total)) if best is None else best[1]
        down, right = (-cells for cells in chosen.shift)
        yield Candidate(
            "mask-offset",
            changes=chosen,
            evidence={"cells_down": down, "cells_right": right, "deblurred": chosen.deblurred},
        )


def median_offset(evidence: Evidence) -> Floats:
    """Return the median rows and columns from the centre of a GT to that of its mask, in cells."""
    offsets = [np.zeros((0, 2))]
    for image in evidence.images:
        gt = assigned_gt(image, limit=0.2)
        found = np.flatnonzero(gt >= 0)
        offset = image.center[-1, found] - image.gt_center[gt[found]]
        offsets.append(offset * np.array(image.grid))
    every = np.concatenate(offsets)
    every = every[~np.isnan(every).any(1)]
    return np.median(every, axis=0) if len(every) >= MIN_OBJECTS else np.zeros(2)


def _opposite(shift: Floats) -> tuple[float, float]:
    rows, columns = -np.round(shift / SHIFT_STEP) * SHIFT_STEP
    return float(rows), float(columns)


def check_attention(trials: Trials) -> Iterator[Candidate]:
    """Yield attention masks computed from the predicted masks, where the model's differ."""
    facts = trials.base.facts
    disagreement = None if facts is None else facts.attention_disagreement
    if disagreement is None or not can_change_input(trials.collector.adapter):
        return
    layers = np.flatnonzero(disagreement > MIN_DISAGREEMENT) + 1
    if len(layers):
        chosen = frozenset(map(int, layers))
        yield Candidate(
            "misleading-attention",
            changes=Changes(attention_from_masks=chosen),
            layers=tuple(sorted(chosen)),
            evidence={"disagreement_of_layers": [float(x) for x in disagreement]},
        )
