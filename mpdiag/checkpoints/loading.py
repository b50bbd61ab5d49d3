"""From a checkpoint file to a model that is ready to run."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpdiag.checkpoints.architecture import architecture_of
from mpdiag.checkpoints.reading import read_weights
from mpdiag.config import ModelConfig, TrainConfig, parse
from mpdiag.errors import CheckpointError
from mpdiag.models import Mask2Former


@dataclass(slots=True)
class LoadedCheckpoint:
    """A model in evaluation mode and what its file says of it.

    Attributes:
        sha256: of the file.
        recipe: the settings it was trained with, if the file is ours.
        classes: category_id, name and isthing of each class, if the file is ours.
    """

    path: Path
    sha256: str
    model: Mask2Former
    recipe: TrainConfig | None
    classes: list[dict[str, Any]] | None


def load_checkpoint(path: str | Path) -> LoadedCheckpoint:
    """Read a checkpoint strictly: every entry used, every parameter filled.

    Raises:
        CheckpointError: unreadable, of another model, or entries missing or left over.
    """
    found = read_weights(Path(path))
    own = found.extra.get("mpdiag", {})
    source = str(found.path)
    if not isinstance(own, dict):
        raise CheckpointError(f"{source}: its 'mpdiag' entry is damaged; save the checkpoint again")
    recipe = parse(TrainConfig, own["recipe"], source) if "recipe" in own else None
    config = recipe.model if recipe else architecture_of(found.weights, source)
    model = build_for_weights(config)
    expected = model.state_dict()
    missing = sorted(expected.keys() - found.weights.keys())
    left = sorted(found.weights.keys() - expected.keys()) + found.unknown
    if missing or left:
        raise CheckpointError(
            f"{source}: does not fit its architecture: {_some(missing)} missing, "
            f"{_some(left)} left over"
        )
    for name, tensor in found.weights.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{source}: {name} is {tuple(tensor.shape)}, its architecture has "
                f"{tuple(expected[name].shape)}"
            )
    model.load_state_dict(found.weights)
    model.eval()
    return LoadedCheckpoint(found.path, _sha256(found.path), model, recipe, own.get("classes"))


def load_model(path: str | Path) -> Mask2Former:
    """The model of a checkpoint file or training output directory, in evaluation mode.

    Raises:
        CheckpointError: see `load_checkpoint`.
    """
    return load_checkpoint(path).model


def build_for_weights(config: ModelConfig) -> Mask2Former:
    """The model that `config` describes, without looking for pretrained weights."""
    backbone = config.backbone.model_copy(update={"pretrained": False})
    return Mask2Former(config.model_copy(update={"backbone": backbone}))


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    return f"{len(names)} ({names[0]}{', ...' if len(names) > 1 else ''})"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
