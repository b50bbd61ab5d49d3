"""transformers' VideoMT: EoMT for video, whose queries pass from frame to frame."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from mpdiag.errors import RecordingError
from mpdiag.recording.families.transformers_eomt import TransformersEomtFamily
from mpdiag.recording.hook_spec import HookSpecs


class TransformersVideomtFamily(TransformersEomtFamily):
    """VideomtForUniversalSegmentation (transformers, modeling_videomt.py); recorded only."""

    name = "transformers VideoMT"
    notes = (
        *TransformersEomtFamily.notes,
        "the batch dimension holds all frames in order, each with all videos, as in the model's "
        "output",
    )
    model_classes: ClassVar = {"videomt": "VideomtForUniversalSegmentation"}
    takes_images = False

    def hooks(self, model: Any) -> HookSpecs:
        blocks = model.config.num_blocks

        def merge_frames(count: int) -> Callable[[list[Tensor]], list[Tensor]]:
            def to_layers(tensors: list[Tensor]) -> list[Tensor]:
                """Concatenate the frames of each layer; a frame passes all layers at once."""
                if len(tensors) % count:
                    raise RecordingError(
                        f"the forward pass produced {len(tensors)} layers, which is not a multiple "
                        f"of the {count} of one frame; layers were skipped or repeated"
                    )
                return [torch.cat(tensors[i::count]) for i in range(count)]

            return to_layers

        attention = ("attention_mask", "cross_attention")  # of layers 1..L
        return {
            name: replace(
                spec,
                num_layers=None,
                to_layers=merge_frames(blocks if name in attention else blocks + 1),
            )
            for name, spec in super().hooks(model).items()
            if name != "assignment"  # the model takes no labels
        }
