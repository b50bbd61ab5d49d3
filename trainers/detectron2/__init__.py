"""The bridge to detectron2; importing it registers our meta-architecture there.

In a training script of one's own, import it and call `add_mpdiag_config(cfg)`; then
`MODEL.META_ARCHITECTURE: MPDiagMask2Former` is our model.
"""

from trainers.detectron2.config import META_ARCHITECTURE, add_mpdiag_config, recipe_of
from trainers.detectron2.engine import Machines, Trainer, run
from trainers.detectron2.mapper import TrainingMapper
from trainers.detectron2.meta_architecture import MPDiagMask2Former

__all__ = [
    "META_ARCHITECTURE",
    "MPDiagMask2Former",
    "Machines",
    "Trainer",
    "TrainingMapper",
    "add_mpdiag_config",
    "recipe_of",
    "run",
]
