"""Mask2Former and MP-Former: backbone, pixel decoder, masked-attention decoder, MP part."""

from mpdiag.models.decoder import Output, Predictions
from mpdiag.models.mask2former import Mask2Former
from mpdiag.models.mask_piloting import Pilot, assemble_pilot

__all__ = ["Mask2Former", "Output", "Pilot", "Predictions", "assemble_pilot"]
