"""What the analysis asks of a model, whichever library it comes from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from mpdiag.data import Sample
from mpdiag.matching import Target
from mpdiag.models import Sizes
from mpdiag.models.mask2former import PIXELS_AT_ONCE, neighbours


@dataclass(frozen=True, slots=True)
class Shown:
    """An image as a model is shown it.

    sample  image and GT at the size that the model is shown, without padding
    padded  (height, width) with padding, which predictions cover from corner to corner
    inputs  what the model takes, by its own names, each with a batch dimension of 1; nothing where
            the sample's image is all
    """

    sample: Sample
    padded: tuple[int, int]
    inputs: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) without padding."""
        return self.sample.image.shape[-2], self.sample.image.shape[-1]

    @property
    def sizes(self) -> Sizes:
        """All sizes on the way from the model to the image file."""
        return Sizes(self.padded, self.size, self.sample.original_size)


@dataclass(frozen=True, slots=True)
class LayerAttention:
    """Where N queries may look, and look, in one decoder layer.

    grid     rows and columns of the map that the layer attends to, which covers the padded image
    weights  (B, N, cells) cross-attention, averaged over heads
    visible  (B, N, cells) bool, True where a query may look; None where a model has no such masks
    """

    grid: tuple[int, int]
    weights: Tensor
    visible: Tensor | None


@dataclass(frozen=True, slots=True)
class Predicted:
    """All layers of B images that are padded alike, on the device.

    class_logits  (L + 1, B, N, K + 1), no-object last and classes in the data set's order
    mask_logits   (L + 1, B, N, h, w)
    attention     of layers 1..L; nothing where it isn't asked for
    """

    class_logits: Tensor
    mask_logits: Tensor
    attention: Sequence[LayerAttention] = ()


class Segmenter(Protocol):
    """A model that predicts masks in every layer, and how images are shown to it."""

    one_by_one: bool
    """Whether images can't share a batch."""
    fed_gt: bool
    """Whether its queries are GT, one for each in their order (the MP part)."""

    attention: bool
    """Whether predictions come with attention; set by `watch_attention`."""

    def watch_attention(self) -> None:
        """Let predictions come with attention; ConfigError where the model has none to show."""

    def to(self, device: torch.device) -> None:
        """Move the model there, in evaluation mode."""

    def show(self, sample: Sample) -> Shown:
        """Preprocess one image of a data set and its GT."""

    def predict(self, batch: Sequence[Shown], targets: Sequence[Target]) -> Predicted:
        """All layers of B images that are padded alike."""


def batches(
    segmenter: Segmenter, samples: Iterable[Sample], device: torch.device
) -> Iterator[list[Shown]]:
    """Samples as the model is shown them, in order, in batches of neighbours padded alike."""
    pixels = 0 if segmenter.one_by_one else PIXELS_AT_ONCE[device.type]
    for _, batch in neighbours(map(segmenter.show, samples), lambda shown: shown.padded, pixels):
        yield batch
