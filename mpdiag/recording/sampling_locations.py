"""Sampling locations of deformable attention, computed from reference points and offsets."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mpdiag.recording.hook_spec import HookSpec, ModuleCall, first_output


def transformers_sampling_hooks(attentions: Sequence[Any]) -> dict[str, HookSpec]:
    """Return the hooks of transformers' multi-scale deformable attention modules."""

    def read(call: ModuleCall) -> Tensor:
        attention = call.module
        shape = (attention.n_heads, attention.n_levels, attention.n_points, 2)
        return sampling_locations(
            call.kwargs["reference_points"],
            call.required["offsets"].unflatten(-1, shape),
            call.kwargs.get("spatial_shapes_list") or call.kwargs["spatial_shapes"].tolist(),
        )

    return sampling_hooks(attentions, read)


def sampling_hooks(
    attentions: Sequence[Any], read: Callable[[ModuleCall], Tensor]
) -> dict[str, HookSpec]:
    """Return hooks of sampling locations; `read` finds the projected offsets as `offsets`."""
    offsets = [attention.sampling_offsets for attention in attentions]
    return {
        "offsets": HookSpec(offsets, len(offsets), first_output),
        "sampling_locations": HookSpec(attentions, len(attentions), read, requires=["offsets"]),
    }


def sampling_locations(
    reference: Tensor, offsets: Tensor, shapes: Sequence[tuple[int, int]]
) -> Tensor:
    """Return (B, S, heads, levels, points, 2) as fractions of the image.

    Deformable DETR, section 4.1.

    Args:
        reference: (B, S, levels, 2), x and y as fractions of the image.
        offsets: (B, S, heads, levels, points, 2) in cells of each level.
        shapes: (rows, columns) of each level.
    """
    sizes = torch.tensor([(columns, rows) for rows, columns in shapes], device=offsets.device)
    return reference[:, :, None, :, None] + offsets / sizes[:, None]
