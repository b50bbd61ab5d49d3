"""transformers' VideoMT: EoMT on video, whose queries go on from frame to frame."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.errors import RecordingError
from mpdiag.recording.families.transformers_eomt import TransformersEomt
from mpdiag.recording.family import is_a
from mpdiag.recording.tap import Taps


class TransformersVideomt(TransformersEomt):
    """VideomtForUniversalSegmentation (transformers, modeling_videomt.py)."""

    name = "transformers VideoMT"
    notes = (
        *TransformersEomt.notes,
        "the batch is all frames one after another, each with all videos, as in the model's output",
    )

    def recognises(self, model: nn.Module) -> bool:
        return is_a(model, "transformers", "VideomtForUniversalSegmentation")

    def taps(self, model: Any) -> Taps:
        blocks = model.config.num_blocks

        def by_layer(count: int) -> Callable[[list[Tensor]], list[Tensor]]:
            def gather(tensors: list[Tensor]) -> list[Tensor]:
                """A frame passes all layers before the next one does."""
                if len(tensors) % count:
                    raise RecordingError(
                        f"one forward pass made {len(tensors)} layers, which is no multiple of the "
                        f"{count} of a frame: layers were skipped or repeated"
                    )
                return [torch.cat(tensors[i::count]) for i in range(count)]

            return gather

        between = ("attention_mask", "cross_attention")  # of layers 1..L
        return {
            name: replace(
                tap, count=None, gather=by_layer(blocks if name in between else blocks + 1)
            )
            for name, tap in super().taps(model).items()
            if name != "assignment"  # it takes no labels
        }
