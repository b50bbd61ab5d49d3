"""Contents of a checkpoint of any format, before its model is built."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpdiag.checkpoints.detectron2_config import TrainingInfo
from mpdiag.checkpoints.reading import Weights
from mpdiag.config import ModelConfig, TrainConfig


@dataclass(slots=True, kw_only=True)
class CheckpointMetadata:
    """What the files of a checkpoint hold besides weights and architecture.

    Attributes:
        recipe: configuration of the training, if mpdiag wrote the file.
        classes: category_id, name and isthing of each class, if mpdiag wrote the file.
        labels: name of each class in the order of the logits, if the file has them.
        config_path: the config file that was read with the weights.
        training_info: losses, image size and data set, if a recipe or config has them.
    """

    recipe: TrainConfig | None = None
    classes: list[dict[str, Any]] | None = None
    labels: list[str] | None = None
    config_path: Path | None = None
    training_info: TrainingInfo | None = None


@dataclass(slots=True)
class CheckpointContents(CheckpointMetadata):
    """Weights, architecture and metadata of a checkpoint."""

    weights: Weights
    config: ModelConfig
