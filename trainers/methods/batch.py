"""Input of the methods: images, GT and random numbers of a step, or of a part of a step.

Losses are sums over a part, divided by sums over the whole step. Each image has its own random
generator. So a batch gives the same gradients in one part, in several, or on several processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mpdiag.config import LossConfig
from mpdiag.data import Sample, padded_targets
from mpdiag.matching import Target
from mpdiag.models.mask2former import padded_size
from mpdiag.ops import to_device

Losses = dict[str, Tensor]
LossNormalizers = dict[str, float]
"""Sums over a step by name, by which its losses are divided; the mean over the processes."""

# First word of a seed sequence; the data loader uses 0 and 1 for order and augmentation.
_STEP, _IMAGE = 2, 3


@dataclass(frozen=True, slots=True)
class Randomness:
    """Random generators of a step. They depend only on seed, step and position in the batch.

    Attributes:
        shared_seed: seed of what all images of the step share.
        generators: one generator per image.
        device: device of the numbers.
    """

    shared_seed: int
    generators: Sequence[torch.Generator]
    device: torch.device

    @classmethod
    def for_step(
        cls, seed: int, step: int, positions: Sequence[int], device: torch.device
    ) -> "Randomness":
        """Return the generators of the images at `positions` of the whole batch of `step`."""
        generators = [_generator(_seed(_IMAGE, seed, step, index), device) for index in positions]
        return cls(_seed(_STEP, seed, step), generators, device)

    def shared_generator(self) -> torch.Generator:
        """Return a new generator, the same for every part and process of the step."""
        return _generator(self.shared_seed, self.device)


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of a step, or of a part of it, with their GT.

    Attributes:
        images: uint8 (3, H, W), on the model's device.
        targets: GT, with masks over the padded extent of these images.
        randomness: random generators of these images.
        precision: autocast of the model; None for float32.
    """

    images: list[Tensor]
    targets: list[Target]
    randomness: Randomness
    precision: torch.dtype | None = None

    @classmethod
    def from_samples(
        cls,
        samples: Sequence[Sample],
        randomness: Randomness,
        precision: torch.dtype | None = None,
    ) -> "Batch":
        """Return samples of a data loader on the device of `randomness`."""
        device = randomness.device
        size = padded_size([sample.size for sample in samples])
        return cls(
            [to_device(sample.image, device) for sample in samples],
            padded_targets(samples, size, device),
            randomness,
            precision,
        )

    def autocast(self) -> torch.autocast:
        """Return the precision of the model; matching and losses are in float32."""
        return autocast(self.randomness.device, self.precision)

    def matching_points(self, loss: LossConfig) -> Tensor | None:
        """Return the (P, 2) points of matching, the same for the whole step; None for all cells."""
        if loss.num_points == "all":
            return None
        generator = self.randomness.shared_generator()
        return torch.rand(loss.num_points, 2, generator=generator, device=generator.device)

    def uniform_points(self, loss: LossConfig) -> Tensor | None:
        """Return (B, P, 2) uniform points of each image; None for all cells."""
        if loss.num_points == "all":
            return None
        return torch.stack(
            [
                torch.rand(loss.num_points, 2, generator=generator, device=generator.device)
                for generator in self.randomness.generators
            ]
        )


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Return autocast on a device; None for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _generator(seed: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)
