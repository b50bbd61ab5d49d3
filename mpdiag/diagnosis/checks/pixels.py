"""Compare the pixels that the backbone gets with those of the images."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import torch
from torch import Tensor

from mpdiag.analysis.adapter import PreprocessedImage, batch_targets
from mpdiag.diagnosis.collect import Collector
from mpdiag.models import Mask2Former

EQUAL = 1e-3  # difference of normalised pixels
LINEAR = 0.999  # correlation of channels from which on they hold the same pixels


class _StopError(Exception):
    """Ends a forward pass at the backbone."""


@dataclass(frozen=True, slots=True)
class ReceivedPixels:
    """How the channels of an image arrive at the backbone.

    Attributes:
        own: lowest correlation of a channel with the same channel of the image.
        swapped: the same with red and blue exchanged.
        difference: largest difference from the pixels as the checkpoint normalises them.
    """

    own: float
    swapped: float
    difference: float

    @property
    def are_as_stated(self) -> bool:
        """Whether the pixels are normalised as the checkpoint states."""
        return self.difference <= EQUAL

    @property
    def are_scaled(self) -> bool:
        """Whether each channel is the image's channel with a scale and an offset."""
        return self.own >= LINEAR

    @property
    def are_swapped(self) -> bool:
        """Whether red and blue are exchanged."""
        return self.swapped >= LINEAR and self.swapped > self.own


@torch.inference_mode()
def received_pixels(collector: Collector, indices: Sequence[int]) -> list[ReceivedPixels]:
    """Return how images arrive at the backbone of mpdiag's Mask2Former."""
    model = collector.adapter.module
    assert isinstance(model, Mask2Former)
    got: list[Tensor] = []

    def stop(module: Any, args: tuple[Tensor, ...]) -> NoReturn:
        got[:] = [args[0]]
        raise _StopError

    def measure(batch: Sequence[PreprocessedImage]) -> list[ReceivedPixels]:
        images = [one.sample.image for one in batch]
        targets = batch_targets(batch, collector.device)
        with suppress(_StopError):
            collector.adapter.predict(batch, targets, attention=False)
        found = []
        for image, pixels, given in zip(images, got[0], model.preprocess(images), strict=True):
            rows, columns = image.shape[-2:]
            found.append(_compare(pixels[:, :rows, :columns], given[:, :rows, :columns]))
        return found

    handle = model.backbone.register_forward_pre_hook(stop)
    try:
        return list(chain.from_iterable(collector.measure_batches(indices, measure)))
    finally:
        handle.remove()


def _compare(pixels: Tensor, given: Tensor) -> ReceivedPixels:
    """Compare (3, H, W) pixels with those of the image; an image without contrast is unchanged."""
    stacked = torch.cat([pixels.flatten(1), given.flatten(1)]).double()
    correlation = torch.corrcoef(stacked).nan_to_num(1.0)[:3, 3:]
    return ReceivedPixels(
        own=float(correlation.diag().min()),
        swapped=float(correlation.flip(1).diag().min()),
        difference=float((pixels - given).abs().max()),
    )
