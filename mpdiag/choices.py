"""Values that options of several packages take.

The module imports nothing heavy, so that the command line starts without torch.
"""

from typing import Literal

Task = Literal["instance", "panoptic", "semantic"]
"""Segmentation task of a data set or a model."""

Part = Literal["matching", "piloted"]
"""Part of the model that an analysis measures: the matching part or the MP part."""

Engine = Literal["mpdiag", "transformers"]
"""Implementation that runs a model."""

PilotVariant = Literal["paper", "official"]
"""Source of the MP part where the paper and the official code differ."""

Tf32 = Literal["none", "convolutions", "all"]
"""Operators that use TF32: none, convolutions, or also matrix products."""

CheckpointFormat = Literal["detectron2", "transformers"]
"""Format that a checkpoint can be written in."""
