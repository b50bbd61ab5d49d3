"""Where deformable attention samples, worked out from its offsets and reference points."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mpdiag.recording.tap import Call, Tap, output


def sampling_taps(attentions: Sequence[Any]) -> dict[str, Tap]:
    """Taps for modules that are given reference points and project offsets from their queries."""

    def read(call: Call) -> Tensor:
        attention = call.module
        shape = (attention.n_heads, attention.n_levels, attention.n_points, 2)
        return locations(
            call.kwargs["reference_points"],
            call.seen["offsets"].unflatten(-1, shape),
            call.kwargs.get("spatial_shapes_list") or call.kwargs["spatial_shapes"].tolist(),
        )

    return with_offsets(attentions, read)


def with_offsets(attentions: Sequence[Any], read: Callable[[Call], Tensor]) -> dict[str, Tap]:
    """Taps of sampling locations whose reading needs what `sampling_offsets` projected."""
    offsets = [attention.sampling_offsets for attention in attentions]
    return {
        "offsets": Tap(offsets, len(offsets), output),
        "sampling_locations": Tap(attentions, len(attentions), read, needs=["offsets"]),
    }


def locations(reference: Tensor, offsets: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """(B, S, heads, levels, points, 2) as fractions of the image (Deformable DETR, section 4.1).

    Args:
        reference: (B, S, levels, 2), x and y as fractions.
        offsets: (B, S, heads, levels, points, 2) in cells of each level.
        shapes: (rows, columns) of each level.
    """
    sizes = torch.tensor([(columns, rows) for rows, columns in shapes], device=offsets.device)
    return reference[:, :, None, :, None] + offsets / sizes[:, None]
