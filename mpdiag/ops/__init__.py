"""Tensor operators shared by the models, the matching and the losses."""

from mpdiag.ops.backends import use_backend
from mpdiag.ops.deformable_attention import ms_deform_attn
from mpdiag.ops.mask_encoding import decode_masks, encode_masks
from mpdiag.ops.mask_losses import mask_losses
from mpdiag.ops.mask_sums import mask_overlaps, masks_of_logits, point_sums
from mpdiag.ops.points import (
    cell_centers,
    rows_per_block,
    sample_logits,
    sample_masks,
    seeded_points,
)
from mpdiag.ops.resizing import resize_maps
from mpdiag.ops.tf32 import set_tf32, tf32
from mpdiag.ops.transfer import to_cpu, to_device

__all__ = [
    "cell_centers",
    "decode_masks",
    "encode_masks",
    "mask_losses",
    "mask_overlaps",
    "masks_of_logits",
    "ms_deform_attn",
    "point_sums",
    "resize_maps",
    "rows_per_block",
    "sample_logits",
    "sample_masks",
    "seeded_points",
    "set_tf32",
    "tf32",
    "to_cpu",
    "to_device",
    "use_backend",
]
