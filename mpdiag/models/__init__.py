"""Mask2Former and MP-Former: backbones, pixel decoder, decoder, MP part and post-processing."""

from mpdiag.models.decoder import Mask2FormerOutput, Predictions
from mpdiag.models.inference import (
    ImageSizes,
    Instances,
    PanopticSegments,
    instance_inference,
    panoptic_inference,
    semantic_inference,
    semantic_scores,
)
from mpdiag.models.mask2former import Mask2Former
from mpdiag.models.mask_piloting import PilotInputs, build_pilot_inputs

__all__ = [
    "ImageSizes",
    "Instances",
    "Mask2Former",
    "Mask2FormerOutput",
    "PanopticSegments",
    "PilotInputs",
    "Predictions",
    "build_pilot_inputs",
    "instance_inference",
    "panoptic_inference",
    "semantic_inference",
    "semantic_scores",
]
