"""A model of 64-pixel images as a checkpoint."""

from pathlib import Path

from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.detectron2_config import TrainingInfo
from mpdiag.config import LossConfig
from mpdiag.models import Mask2Former


def as_checkpoint(model: Mask2Former) -> LoadedCheckpoint:
    info = TrainingInfo(LossConfig(), short_side=64, long_side=64)
    return LoadedCheckpoint(Path("model"), "module", "0" * 64, model, training_info=info)
