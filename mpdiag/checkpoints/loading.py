"""From a checkpoint of any form to a model that is ready to run."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mpdiag.checkpoints.architecture import architecture_of, sampled_points
from mpdiag.checkpoints.detectron2_config import (
    Setup,
    apply_to_model,
    find_config,
    setup_of,
)
from mpdiag.checkpoints.detectron2_yaml import read_detectron2_config
from mpdiag.checkpoints.hub import local_copy
from mpdiag.checkpoints.official_keys import EMPTY_WEIGHT, PIXEL_MEAN, PIXEL_STD
from mpdiag.checkpoints.reading import Weights, read_weights
from mpdiag.checkpoints.transformers_form import is_transformers, read_transformers
from mpdiag.config import LossConfig, ModelConfig, TrainConfig, parse
from mpdiag.errors import CheckpointError, ConfigError
from mpdiag.models import Mask2Former

NAMES_SHOWN = 12  # of missing and left-over entries in an error


SHORT_SIDE, LONG_SIDE = 800, 1333  # of the published models at inference


@dataclass(slots=True)
class LoadedCheckpoint:
    """A model in evaluation mode and what its files say of it.

    Attributes:
        path: the file of weights.
        form: the kind of file and whose names it uses, in words.
        sha256: of the file of weights.
        recipe: the settings it was trained with, if the file is ours.
        classes: category_id, name and isthing of each class, if the file is ours.
        labels: name of each class in the order of the logits, where a transformers directory has
            them.
        config_path: the config that was read beside the weights, or as given.
        setup: losses, image size and data set, where recipe or config tell.
    """

    path: Path
    form: str
    sha256: str
    model: Mask2Former
    recipe: TrainConfig | None = None
    classes: list[dict[str, Any]] | None = None
    labels: list[str] | None = None
    config_path: Path | None = None
    setup: Setup | None = None

    @property
    def image_size(self) -> tuple[int | None, int]:
        """Shorter and longer side of images at inference; a recipe's None keeps their own size."""
        if self.recipe is not None:
            return self.recipe.data.short_side, self.recipe.data.long_side
        setup = self.setup
        return (setup and setup.short_side) or SHORT_SIDE, (setup and setup.long_side) or LONG_SIDE


@dataclass(slots=True)
class Opened:
    """A checkpoint before its model is built: weights that belong to an architecture."""

    weights: Weights
    config: ModelConfig
    recipe: TrainConfig | None = None
    classes: list[dict[str, Any]] | None = None
    labels: list[str] | None = None
    config_path: Path | None = None
    setup: Setup | None = None


def load_checkpoint(path: str | Path, config: str | Path | None = None) -> LoadedCheckpoint:
    """Read a checkpoint strictly: every entry used, every parameter filled.

    Args:
        path: a file, a training output directory, a transformers directory, or a hub id.
        config: a detectron2 YAML for what the weights do not tell; by default the one beside the
            file, where there is one.

    Raises:
        CheckpointError: unreadable, of another model, or entries missing or left over.
        ConfigError: the YAML can't be read or contradicts the weights.
    """
    opened = open_checkpoint(local_copy(path), None if config is None else Path(config))
    model = build_for_weights(opened.config)
    check_fit(opened.weights, model)
    model.load_state_dict(opened.weights.weights)
    model.eval()
    return LoadedCheckpoint(
        path=opened.weights.path,
        form=opened.weights.form,
        sha256=_sha256(opened.weights.path),
        model=model,
        recipe=opened.recipe,
        classes=opened.classes,
        labels=opened.labels,
        config_path=opened.config_path,
        setup=opened.setup,
    )


def open_checkpoint(path: Path, config: Path | None = None) -> Opened:
    """Weights and architecture of a checkpoint, without building the model.

    Raises:
        CheckpointError, ConfigError: see `load_checkpoint`.
    """
    if path.is_dir() and is_transformers(path):
        return _open_transformers(path, config)
    return open_weights(read_weights(path), config)


def open_weights(found: Weights, config: Path | None = None) -> Opened:
    """The same for what `read_weights` gave."""
    own = found.extra.get("mpdiag", {})
    source = str(found.path)
    if not isinstance(own, Mapping):
        raise CheckpointError(f"{source}: its 'mpdiag' entry is damaged; save the checkpoint again")
    if "recipe" in own:
        recipe = parse(TrainConfig, own["recipe"], source)
        if config is not None:
            raise ConfigError(f"{config}: {source} has the settings it was trained with; leave out")
        setup = Setup(recipe.loss, recipe.data.short_side, recipe.data.long_side)
        return Opened(found, recipe.model, recipe, own.get("classes"), setup=setup)
    if "model" in own and config is None:
        return _open_converted(found, own)
    architecture = _with_statistics(architecture_of(found.weights, source), found)
    no_object = _no_object_weight(found)
    config = config or find_config(found.path)
    if config is None:
        told = None if no_object is None else Setup(LossConfig(no_object_weight=no_object))
        return Opened(found, architecture, classes=own.get("classes"), setup=told)
    values = read_detectron2_config(config)
    points = sampled_points(found.weights)
    return Opened(
        found,
        apply_to_model(values, architecture, points, str(config)),
        classes=own.get("classes"),
        config_path=config,
        setup=setup_of(values, str(config), no_object),
    )


def build_for_weights(config: ModelConfig) -> Mask2Former:
    """The model that `config` describes, without looking for pretrained weights."""
    backbone = config.backbone.model_copy(update={"pretrained": False})
    return Mask2Former(config.model_copy(update={"backbone": backbone}))


def check_fit(found: Weights, model: Mask2Former) -> None:
    """Refuse weights that `model` does not take one for one.

    Raises:
        CheckpointError: lists what is missing and left over, or names the entry that differs.
    """
    expected = model.state_dict()
    implied = {name: x for name, x in model.named_buffers() if name not in expected}
    missing = sorted(expected.keys() - found.weights.keys())
    left = sorted(found.weights.keys() - expected.keys())
    left += sorted(found.implied.keys() - implied.keys()) + found.unknown
    if missing or left:
        raise CheckpointError(
            f"{found.path}: does not fit its architecture: {_some(missing)} missing, "
            f"{_some(left)} left over"
        )
    for name, tensor in (found.weights | found.implied).items():
        here = (expected | implied)[name]
        if tensor.shape != here.shape:
            raise CheckpointError(
                f"{found.path}: {name} is {tuple(tensor.shape)}, its architecture has "
                f"{tuple(here.shape)}"
            )
    for name, tensor in found.implied.items():
        if not implied[name].is_meta and not torch.equal(tensor, implied[name]):
            raise CheckpointError(f"{found.path}: {name} is not that of a Swin; it was changed")


def _open_transformers(path: Path, config: Path | None) -> Opened:
    found = read_transformers(path)
    if config is not None:
        raise ConfigError(f"{config}: {path} has a config.json of its own; leave it out")
    weights = Weights(found.path, "transformers directory", found.weights, unknown=found.unknown)
    return Opened(
        weights,
        found.config,
        recipe=found.recipe,
        classes=found.classes,
        labels=found.labels,
        config_path=path / "config.json",
        setup=Setup(found.loss, found.short_side, found.long_side),
    )


def _open_converted(found: Weights, own: Mapping[str, Any]) -> Opened:
    """A file that `convert` wrote from a form without a recipe; it keeps what that form told."""
    source = str(found.path)
    loss = parse(LossConfig, own.get("loss", {}), source)
    return Opened(
        found,
        parse(ModelConfig, own["model"], source),
        classes=own.get("classes"),
        labels=own.get("labels"),
        setup=Setup(loss, own.get("short_side"), own.get("long_side")),
    )


def _with_statistics(config: ModelConfig, found: Weights) -> ModelConfig:
    """Pixel mean and deviation are in the state dicts of early versions."""
    changes = {
        name: tuple(found.settings[key].flatten().tolist())
        for key, name in ((PIXEL_MEAN, "pixel_mean"), (PIXEL_STD, "pixel_std"))
        if key in found.settings
    }
    return parse(ModelConfig, config.model_dump() | changes, str(found.path))


def _no_object_weight(found: Weights) -> float | None:
    """The one loss weight that state dicts have: that of the last class, no-object."""
    if EMPTY_WEIGHT not in found.settings:
        return None
    return round(float(found.settings[EMPTY_WEIGHT].flatten()[-1]), 6)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    if not names:
        return "none"
    more = f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{len(names)} ({', '.join(names[:NAMES_SHOWN])}{more})"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
