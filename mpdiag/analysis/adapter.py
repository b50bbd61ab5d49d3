"""Interface of the analysis to a model, whichever library runs it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mpdiag.analysis.class_mapping import ClassMapping
from mpdiag.analysis.settings import ModelSettings
from mpdiag.data import Sample, padded_targets
from mpdiag.errors import ConfigError, RecordingError
from mpdiag.matching import Target
from mpdiag.models import ImageSizes
from mpdiag.models.batching import batches_by_size
from mpdiag.recording import Recording, record

CROSS_ATTENTION = "cross_attention"
# A pattern, because some families with attention have no attention masks.
ATTENTION_NAMES = "*attention*"


@dataclass(frozen=True, slots=True)
class PreprocessedImage:
    """An image as a model takes it.

    Attributes:
        sample: image and GT at the input size, without padding.
        padded: (height, width) with padding, which the predictions cover.
        inputs: inputs of the model by name, each with a batch dimension of 1; empty for models that
            take the image of the sample.
    """

    sample: Sample
    padded: tuple[int, int]
    inputs: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def sizes(self) -> ImageSizes:
        """Sizes of the padded image, the image, and the image file."""
        return ImageSizes(self.padded, self.sample.size, self.sample.original_size)


def batch_targets(batch: Sequence[PreprocessedImage], device: torch.device) -> list[Target]:
    """Return the GT of images of one padded size, on a device."""
    return padded_targets([image.sample for image in batch], batch[0].padded, device)


@dataclass(frozen=True, slots=True)
class LayerAttention:
    """Cross-attention of N queries in one decoder layer.

    Attributes:
        grid: rows and columns of the feature map, which covers the padded image.
        weights: (B, N, cells), averaged over heads.
        visible: bool (B, N, cells), attention mask, True where a query may attend; None for models
            without attention masks.
    """

    grid: tuple[int, int]
    weights: Tensor
    visible: Tensor | None

    @classmethod
    def from_recording(cls, recording: Recording) -> list["LayerAttention"]:
        """Return the attention of decoder layers 1..L; an empty list if none was recorded."""
        if CROSS_ATTENTION not in recording:
            return []
        weights = [layer[:, 0] for layer in recording.layers(CROSS_ATTENTION)]
        masks: list[Tensor | None] = [None] * len(weights)
        if "attention_mask" in recording:
            masks = [*recording.layers("attention_mask")]
        return [
            cls(recording.attention_grid(layer.shape[-1]), layer, mask)
            for layer, mask in zip(weights, masks, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class LayerPredictions:
    """Predictions of all layers for B images of one padded size, on the model's device.

    Attributes:
        class_logits: (L + 1, B, N, K + 1), no-object last, in the class order of the data set.
        mask_logits: (L + 1, B, N, h, w).
        attention: of decoder layers 1..L; empty unless requested.
    """

    class_logits: Tensor
    mask_logits: Tensor
    attention: Sequence[LayerAttention] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What run.json records about a model.

    Attributes:
        path: its file or directory, or the name of its class.
        sha256: of its weights.
        architecture: its configuration.
        settings: settings of the analysis that depend on the model.
        method: training method, if known.
        packages: packages that run it, whose versions are recorded.
    """

    path: str
    sha256: str
    architecture: Mapping[str, Any]
    settings: ModelSettings
    method: str | None = None
    packages: tuple[str, ...] = ()


class ModelAdapter(ABC):
    """A model that predicts masks in every layer, and its preprocessing.

    Attributes:
        module: the model, of a family that the recorder knows.
        classes: mapping from the classes of the model to those of the data set.
        info: what run.json records about the model.
    """

    single_image_batches: ClassVar[bool] = False
    """Whether a batch holds one image only."""
    queries_are_gt: ClassVar[bool] = False
    """Whether query n is the GT n of its image (the MP part)."""

    def __init__(self, module: nn.Module, classes: ClassMapping, info: ModelInfo) -> None:
        self.module = module
        self.classes = classes
        self.info = info

    def to(self, device: torch.device) -> None:
        """Move the model to `device` and set it to evaluation mode."""
        self.module.to(device).eval()

    def check_attention(self) -> None:
        """Check that the cross-attention of the model can be recorded.

        Raises:
            ConfigError: the family has no cross-attention.
        """
        try:
            with record(self.module, only=[CROSS_ATTENTION]):
                pass
        except RecordingError as error:
            raise ConfigError(f"--save-attention: {error}; leave it out") from error

    @abstractmethod
    def preprocess(self, sample: Sample) -> PreprocessedImage:
        """Preprocess one image of a data set and its GT."""

    @abstractmethod
    def predict(
        self, batch: Sequence[PreprocessedImage], targets: Sequence[Target], *, attention: bool
    ) -> LayerPredictions:
        """Predict all layers of B images of one padded size.

        Args:
            batch: the images.
            targets: their GT.
            attention: whether to return cross-attention too.
        """

    def batches(
        self, samples: Iterable[Sample], device: torch.device
    ) -> Iterator[list[PreprocessedImage]]:
        """Preprocess samples in order and group neighbours of the same padded size."""
        images = map(self.preprocess, samples)
        if self.single_image_batches:
            return ([image] for image in images)
        return (batch for _, batch in batches_by_size(images, lambda image: image.padded, device))
