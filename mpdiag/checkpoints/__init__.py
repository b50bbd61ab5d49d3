"""Read and write checkpoints of several formats; no code in them is run."""

from mpdiag.checkpoints.custom_model import CustomModel
from mpdiag.checkpoints.loading import LoadedCheckpoint, load_checkpoint
from mpdiag.checkpoints.opening import load_model
from mpdiag.checkpoints.reading import Weights, read_weights
from mpdiag.checkpoints.saving import save_checkpoint

__all__ = [
    "CustomModel",
    "LoadedCheckpoint",
    "Weights",
    "load_checkpoint",
    "load_model",
    "read_weights",
    "save_checkpoint",
]
