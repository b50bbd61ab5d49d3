"""Where the deformable attention of transformers' pixel decoders samples."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpdiag.recording.tap import Call, Tap, output


def sampling_taps(attentions: Sequence[Any]) -> dict[str, Tap]:
    """Taps for modules that are given reference points and project offsets from their queries."""

    def read(call: Call) -> Tensor:
        attention, reference = call.module, call.kwargs["reference_points"]
        shape = (attention.n_heads, attention.n_levels, attention.n_points, 2)
        offsets = call.seen["offsets"].unflatten(-1, shape)
        sizes = [(width, height) for height, width in call.kwargs["spatial_shapes_list"]]
        scale = torch.tensor(sizes, device=offsets.device)[:, None]
        locations: Tensor = reference[:, :, None, :, None] + offsets / scale
        return locations

    offsets = [attention.sampling_offsets for attention in attentions]
    return {
        "offsets": Tap(offsets, len(offsets), output),
        "sampling_locations": Tap(attentions, len(attentions), read, needs=["offsets"]),
    }
