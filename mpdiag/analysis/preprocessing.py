"""How transformers' image processors show an image to a model, and where the image then is."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.errors import CheckpointError

Inputs = dict[str, Tensor]
Size = tuple[int, int]

_NOT_ANALYSED = (
    "its image processor cuts images into windows (do_split_image), in each of which a query has "
    "another mask; such a model can't be analysed"
)


class Preprocessing:
    """The preprocessing of one module, for one task.

    Attributes:
        settings: of the image processor, as its preprocessor_config.json has them.
    """

    def __init__(self, processor: Any, module: nn.Module, task: str, name: str) -> None:
        """`name` is how an error calls the model. CheckpointError where its images are cut up."""
        self._images = getattr(processor, "image_processor", processor)
        self._takes = set(inspect.signature(module.forward).parameters)
        self._extra: dict[str, Any] = {}
        self._processor = processor
        if "task_inputs" in self._takes:
            if processor is self._images:
                raise CheckpointError(
                    f"{name}: needs its OneFormerProcessor, whose tokenizer reads the task's name"
                )
            self._extra["task_inputs"] = [task]
        if getattr(self._images, "do_split_image", False):
            raise CheckpointError(f"{name}: {_NOT_ANALYSED}")
        self._sizes: dict[Size, Size] = {}

    @property
    def settings(self) -> Mapping[str, Any]:
        settings: dict[str, Any] = json.loads(self._images.to_json_string())
        return settings

    def __call__(self, image: Tensor) -> tuple[Inputs, Size]:
        """A uint8 image (3, H, W) as the module takes it, and its size there without padding.

        The inputs have a batch dimension of 1; those that the module doesn't take are left out.
        """
        found = self._run(image)
        return self._tensors(found), self._size(image, found)

    def _run(self, image: Tensor, **changes: Any) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._processor(
            images=[image],
            return_tensors="pt",
            input_data_format="channels_first",
            **self._extra,
            **changes,
        )
        return found

    def _tensors(self, found: Mapping[str, Any]) -> Inputs:
        return {
            name: value
            for name, value in found.items()
            if isinstance(value, Tensor) and name in self._takes
        }

    def _size(self, image: Tensor, found: Mapping[str, Any]) -> Size:
        """By the mask of valid pixels, else by what the image is without padding."""
        if "pixel_mask" in found:
            mask = found["pixel_mask"][0] > 0
            return int(mask.any(1).sum()), int(mask.any(0).sum())
        if not getattr(self._images, "do_pad", False):
            return _extent(found)
        original = (image.shape[-2], image.shape[-1])
        if original not in self._sizes:
            self._sizes[original] = _extent(self._run(torch.zeros_like(image), do_pad=False))
        return self._sizes[original]


def _extent(found: Mapping[str, Any]) -> Size:
    height, width = found["pixel_values"].shape[-2:]
    return int(height), int(width)
