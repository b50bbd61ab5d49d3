"""One file for each family that is known from the start."""

from mpdiag.recording.families.hook_points import HookPoints
from mpdiag.recording.families.mask2former import Mask2Former
from mpdiag.recording.families.official_mask2former import OfficialMask2Former
from mpdiag.recording.families.transformers_conditional_detr import TransformersConditionalDetr
from mpdiag.recording.families.transformers_detr import TransformersDetr
from mpdiag.recording.families.transformers_eomt import TransformersEomt
from mpdiag.recording.families.transformers_mask2former import TransformersMask2Former
from mpdiag.recording.families.transformers_maskformer import TransformersMaskFormer
from mpdiag.recording.families.transformers_oneformer import TransformersOneFormer
from mpdiag.recording.families.transformers_rfdetr import TransformersRfDetr
from mpdiag.recording.families.transformers_videomt import TransformersVideomt
from mpdiag.recording.family import Family

BUILT_IN: tuple[Family, ...] = (
    Mask2Former(),
    HookPoints(),
    OfficialMask2Former(),
    TransformersMask2Former(),
    TransformersMaskFormer(),
    TransformersOneFormer(),
    TransformersEomt(),
    TransformersVideomt(),
    TransformersDetr(),
    TransformersConditionalDetr(),
    TransformersRfDetr(),
)
"""In the order in which they are asked."""
