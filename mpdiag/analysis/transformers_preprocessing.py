"""Preprocess images with the image processor of a transformers model."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.errors import CheckpointError

Inputs = dict[str, Tensor]
Size = tuple[int, int]


class TransformersPreprocessor:
    """Preprocess images for a module and a task.

    Attributes:
        settings: settings of the image processor, as in preprocessor_config.json.
    """

    def __init__(self, processor: Any, module: nn.Module, task: str, name: str) -> None:
        """Take the image processor of a module.

        Args:
            processor: the image processor, or a processor with tokenizer.
            module: the model.
            task: task of the data set.
            name: name of the model for errors.

        Raises:
            CheckpointError: the processor lacks a tokenizer that the model needs, or splits images.
        """
        self._images = getattr(processor, "image_processor", processor)
        self._accepted = set(inspect.signature(module.forward).parameters)
        self._extra: dict[str, Any] = {}
        self._processor = processor
        if "task_inputs" in self._accepted:
            if processor is self._images:
                raise CheckpointError(
                    f"{name}: needs a tokenizer for the name of the task; give its "
                    "OneFormerProcessor"
                )
            self._extra["task_inputs"] = [task]
        if getattr(self._images, "do_split_image", False):
            raise CheckpointError(
                f"{name}: its image processor splits images into windows (do_split_image), in each "
                "of which a query has another mask; such models can't be analysed"
            )
        self.settings: Mapping[str, Any] = json.loads(self._images.to_json_string())
        self._sizes: dict[Size, Size] = {}

    def __call__(self, image: Tensor) -> tuple[Inputs, Size]:
        """Preprocess one image.

        Args:
            image: uint8 (3, H, W).

        Returns:
            The inputs that the module accepts, with a batch dimension of 1, and the size
            (height, width) of the preprocessed image without padding.
        """
        features = self._run(image)
        inputs = {
            name: value
            for name, value in features.items()
            if isinstance(value, Tensor) and name in self._accepted
        }
        return inputs, self._size(image, features)

    def _run(self, image: Tensor, **changes: Any) -> Mapping[str, Any]:
        features: Mapping[str, Any] = self._processor(
            images=[image],
            return_tensors="pt",
            input_data_format="channels_first",
            **self._extra,
            **changes,
        )
        return features

    def _size(self, image: Tensor, features: Mapping[str, Any]) -> Size:
        """Return the size without padding: from the pixel mask, or by preprocessing without it."""
        if "pixel_mask" in features:
            mask = features["pixel_mask"][0] > 0
            return int(mask.any(1).sum()), int(mask.any(0).sum())
        if not getattr(self._images, "do_pad", False):
            return _input_size(features)
        original = (image.shape[-2], image.shape[-1])
        if original not in self._sizes:
            self._sizes[original] = _input_size(self._run(torch.zeros_like(image), do_pad=False))
        return self._sizes[original]


def _input_size(features: Mapping[str, Any]) -> Size:
    height, width = features["pixel_values"].shape[-2:]
    return int(height), int(width)
