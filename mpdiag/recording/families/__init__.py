"""One file for each family that is known from the start."""

from mpdiag.recording.families.hook_points import HookPoints
from mpdiag.recording.families.official_mask2former import OfficialMask2Former
from mpdiag.recording.families.transformers_mask2former import TransformersMask2Former
from mpdiag.recording.families.transformers_maskformer import TransformersMaskFormer
from mpdiag.recording.family import Family

BUILT_IN: tuple[Family, ...] = (
    HookPoints(),
    OfficialMask2Former(),
    TransformersMask2Former(),
    TransformersMaskFormer(),
)
"""In the order in which they are asked."""
