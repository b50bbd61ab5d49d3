"""Adapter of a model that is given with its preprocessing."""

import math
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.analysis.adapter import ModelInfo, PreprocessedImage
from mpdiag.analysis.class_mapping import ClassMapping, map_classes
from mpdiag.analysis.recorded_adapters import RecordedModelAdapter
from mpdiag.analysis.settings import ModelSettings
from mpdiag.checkpoints.checksums import parameters_sha256
from mpdiag.checkpoints.custom_model import CustomModel
from mpdiag.data import Sample, SegmentationDataset, drop_empty
from mpdiag.data.transforms import resize
from mpdiag.errors import CheckpointError, ConfigError
from mpdiag.recording import find_family, record

_TRIAL_SIZE = (3, 480, 640)


class CustomAdapter(RecordedModelAdapter):
    """A model of any family, called with a batch of preprocessed images."""

    def __init__(self, model: CustomModel, data: SegmentationDataset) -> None:
        """Set up a model for a data set.

        The model predicts a trial image, which shows its number of classes. The checksum of the
        preprocessed trial image identifies the preprocessing, so that no run is resumed with
        another one.

        Raises:
            CheckpointError: the classes are not those of the data set.
            ConfigError: the preprocessing returns no image.
            RecordingError: the recorder does not know the family, or the model has another
                structure.
        """
        self.custom = model
        family, inner = find_family(model.module)
        trial, size = self._pixels(_trial_image())
        content = trial.detach().cpu().contiguous().flatten().view(torch.uint8)
        info = ModelInfo(
            path=model.name,
            sha256=parameters_sha256(model.module),
            architecture={
                "family": family.name,
                "notes": list(family.notes),
                "module": type(inner).__name__,
            },
            settings=ModelSettings.from_loss(
                family.loss_config(inner, model.name),
                inference=family.instance_rule,
                image_processor={
                    "trial_sha256": sha256(content.numpy().tobytes()).hexdigest(),
                    "trial_size": list(size),
                },
            ),
            packages=_distribution(inner),
        )
        module = model.module.eval()
        count = _num_classes(module, trial)
        classes = self._map_classes(count, data, exclusive=family.instance_rule != "sigmoid")
        super().__init__(module, classes, info)

    def _map_classes(
        self, count: int, data: SegmentationDataset, *, exclusive: bool
    ) -> ClassMapping:
        labels = self.custom.classes
        if labels is None and count != len(data.classes):
            raise CheckpointError(
                f"{self.custom.name}: predicts {count} classes, but {data.annotations.path} has "
                f"{len(data.classes)}; give the names of its classes, "
                "CustomModel(..., classes=[...])"
            )
        if labels is not None and count != len(labels):
            raise ConfigError(
                f"{self.custom.name}: classes has {len(labels)} names, but the model predicts "
                f"{count} classes; give a name for each logit but no-object"
            )
        source = str(data.annotations.path)
        return map_classes(
            labels, count, data.classes, self.custom.name, source, exclusive=exclusive
        )

    def _pixels(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Preprocess an image; also return its size without padding."""
        output: Any = self.custom.preprocess(image)
        pixels, size = output if isinstance(output, tuple) else (output, None)
        if not isinstance(pixels, Tensor) or pixels.ndim != 3:
            what = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
            raise ConfigError(
                f"{self.custom.name}: preprocess returns {what}; return a tensor (channels, "
                "height, width), or this tensor and the (height, width) without padding"
            )
        height, width = pixels.shape[-2:]
        if size is None:
            return pixels, (height, width)
        if not (0 < size[0] <= height and 0 < size[1] <= width):
            raise ConfigError(
                f"{self.custom.name}: preprocess returns the size {tuple(size)} without padding, "
                f"but an image of {(height, width)}; return the size of the part with the image"
            )
        return pixels, (int(size[0]), int(size[1]))

    def preprocess(self, sample: Sample) -> PreprocessedImage:
        pixels, size = self._pixels(sample.image)
        height, width = pixels.shape[-2:]
        resized = drop_empty(resize(sample, size))
        return PreprocessedImage(resized, (height, width), {"pixels": pixels[None]})

    def forward(self, batch: Sequence[PreprocessedImage], device: torch.device) -> None:
        self.module(torch.cat([image.inputs["pixels"] for image in batch]).to(device))


def _trial_image() -> Tensor:
    """Return an image, uint8 (3, H, W), that differs between channels, rows and columns."""
    return (torch.arange(math.prod(_TRIAL_SIZE)) % 251).to(torch.uint8).reshape(_TRIAL_SIZE)


def _num_classes(module: nn.Module, pixels: Tensor) -> int:
    """Return the number of classes that a model predicts for a preprocessed image."""
    device = next(module.parameters()).device
    with torch.inference_mode(), record(module, only=["class_logits"]) as recording:
        module(pixels[None].to(device))
    return int(recording.class_logits.shape[-1]) - 1


def _distribution(module: nn.Module) -> tuple[str, ...]:
    """Return the installed package that defines the class of a module; empty if there is none."""
    package = type(module).__module__.partition(".")[0]
    try:
        version(package)
    except PackageNotFoundError:
        return ()
    return (package,)
