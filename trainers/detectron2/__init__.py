"""Bridge to detectron2. Importing it registers the meta-architecture MPDiagMask2Former.

In your own training script, import it, call `add_mpdiag_config(cfg)`, and set
`MODEL.META_ARCHITECTURE: MPDiagMask2Former`.
"""

from trainers.detectron2.config import META_ARCHITECTURE, add_mpdiag_config, train_config_of
from trainers.detectron2.engine import Detectron2Trainer, LaunchOptions, run
from trainers.detectron2.mapper import TrainingMapper
from trainers.detectron2.meta_architecture import MPDiagMask2Former

__all__ = [
    "META_ARCHITECTURE",
    "Detectron2Trainer",
    "LaunchOptions",
    "MPDiagMask2Former",
    "TrainingMapper",
    "add_mpdiag_config",
    "run",
    "train_config_of",
]
