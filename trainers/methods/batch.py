"""What a method is given for a step, or for a part of one: images, GT, randomness, normalisers.

Losses are sums over a part divided by what the whole step holds, and every image draws from streams
of its own. So a batch gives the same gradients in one piece, in parts, or shared out over ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mpdiag.config import LossConfig
from mpdiag.data import Sample, padded_targets
from mpdiag.losses import UncertainPoints
from mpdiag.matching import Target
from mpdiag.models.mask2former import padded_size

Losses = dict[str, Tensor]

# First word of a seed sequence; the loader has 0 and 1 for order and augmentation.
_STEP, _IMAGE = 2, 3


@dataclass(frozen=True, slots=True)
class Census:
    """Sums over a step, by which its losses are divided; on many ranks, the mean over them.

    Attributes:
        images: number of images.
        masks, class_weight: matched queries of a layer, and the sum of its queries' class weights.
        piloted_masks, piloted_class_weight: the same in the MP part.
    """

    images: float
    masks: float
    class_weight: float
    piloted_masks: float = 0.0
    piloted_class_weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Randomness:
    """Where a step's random numbers come from: a function of seed, step and slot alone.

    Attributes:
        shared_seed: of what all images of the step share.
        streams: a generator for each image.
        device: of the numbers.
    """

    shared_seed: int
    streams: Sequence[torch.Generator]
    device: torch.device

    @classmethod
    def of_step(
        cls, seed: int, step: int, slots: Sequence[int], device: torch.device
    ) -> "Randomness":
        """For the images at `slots` of the whole batch of `step`."""
        streams = [_generator(_seed(_IMAGE, seed, step, slot), device) for slot in slots]
        return cls(_seed(_STEP, seed, step), streams, device)

    def shared(self) -> torch.Generator:
        """A fresh generator that is the same for every part and rank of the step."""
        return _generator(self.shared_seed, self.device)


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of a step, or of a part of it, with what turns their predictions into losses.

    Attributes:
        images: uint8 (3, H, W), on the model's device.
        targets: their GT, masks over the padded extent of these images.
        randomness: of these images.
    """

    images: list[Tensor]
    targets: list[Target]
    randomness: Randomness

    @classmethod
    def of(cls, samples: Sequence[Sample], randomness: Randomness) -> "Batch":
        """Samples of a loader, brought to the device of the randomness."""
        device = randomness.device
        size = padded_size([(s.image.shape[-2], s.image.shape[-1]) for s in samples])
        return cls(
            [sample.image.to(device, non_blocking=True) for sample in samples],
            padded_targets(samples, size, device),
            randomness,
        )

    def autocast(self, dtype: torch.dtype | None) -> torch.autocast:
        """The model's precision; None for float32."""
        return autocast(self.randomness.device, dtype)

    def matching_points(self, loss: LossConfig) -> Tensor | None:
        """(P, 2) where all masks of the step are compared in matching; None for every cell."""
        if loss.points == "all":
            return None
        generator = self.randomness.shared()
        return torch.rand(loss.points, 2, generator=generator, device=generator.device)

    def point_picker(self, loss: LossConfig) -> UncertainPoints | None:
        """Where the losses compare masks; None for every cell."""
        if loss.points == "all":
            return None
        return UncertainPoints(
            self.randomness.streams, loss.points, loss.oversample, loss.importance
        )

    def uniform_points(self, loss: LossConfig) -> Tensor | None:
        """(B, P, 2) uniform points of each image; None for every cell."""
        if loss.points == "all":
            return None
        return torch.stack(
            [
                torch.rand(loss.points, 2, generator=stream, device=stream.device)
                for stream in self.randomness.streams
            ]
        )


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """A model's precision on a device; None for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _generator(seed: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)
