"""Mask2Former and MP-Former: backbone, pixel decoder, masked-attention decoder, MP part."""

from mpdiag.models.decoder import Output, Predictions
from mpdiag.models.inference import (
    InstanceRule,
    Instances,
    PanopticSegments,
    Sizes,
    instance_inference,
    panoptic_inference,
    semantic_inference,
    semantic_scores,
)
from mpdiag.models.mask2former import Mask2Former
from mpdiag.models.mask_piloting import Pilot, assemble_pilot

__all__ = [
    "InstanceRule",
    "Instances",
    "Mask2Former",
    "Output",
    "PanopticSegments",
    "Pilot",
    "Predictions",
    "Sizes",
    "assemble_pilot",
    "instance_inference",
    "panoptic_inference",
    "semantic_inference",
    "semantic_scores",
]
