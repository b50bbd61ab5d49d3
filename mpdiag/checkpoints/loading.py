"""Load a checkpoint of mpdiag, detectron2 or transformers into mpdiag's Mask2Former."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mpdiag.checkpoints.architecture import model_config_of, num_sampling_points
from mpdiag.checkpoints.checksums import files_sha256
from mpdiag.checkpoints.contents import CheckpointContents, CheckpointMetadata
from mpdiag.checkpoints.detectron2_config import (
    TrainingInfo,
    apply_detectron2_config,
    find_config,
    image_sides,
)
from mpdiag.checkpoints.hub import local_path
from mpdiag.checkpoints.official_keys import EMPTY_WEIGHT, PIXEL_MEAN, PIXEL_STD
from mpdiag.checkpoints.reading import Weights, read_weights
from mpdiag.checkpoints.transformers_config import PUBLISHED_SIZE
from mpdiag.checkpoints.transformers_directory import is_transformers_directory, read_transformers
from mpdiag.config import LossConfig, ModelConfig, TrainConfig, parse
from mpdiag.errors import CheckpointError, ConfigError
from mpdiag.legacy_names import upgrade_config
from mpdiag.models import Mask2Former

NAMES_SHOWN = 12  # of missing and unexpected entries in an error
SHORT_SIDE, LONG_SIDE = PUBLISHED_SIZE


@dataclass(slots=True)
class LoadedCheckpoint(CheckpointMetadata):
    """A model in evaluation mode, and the metadata of its checkpoint.

    Attributes:
        path: the file of weights, or the directory of its shards.
        format: format of the file, for display.
        sha256: checksum of the file, or of all shards one after the other.
        model: the model.
    """

    path: Path
    format: str
    sha256: str
    model: Mask2Former

    @property
    def image_size(self) -> tuple[int | None, int]:
        """Short and long side of images at inference; short side None keeps their own size.

        Raises:
            CheckpointError: the preprocessor resizes in another way.
        """
        if self.recipe is not None:
            return self.recipe.data.short_side, self.recipe.data.long_side
        info = self.training_info
        if info and info.resize == "other":
            raise CheckpointError(
                f"{self.path}: its preprocessor_config.json does not resize by the shortest edge; "
                "let transformers run it with --engine transformers"
            )
        if info and info.resize == "none":
            return None, LONG_SIDE
        return (info and info.short_side) or SHORT_SIDE, (info and info.long_side) or LONG_SIDE


def load_checkpoint(path: str | Path, config: str | Path | None = None) -> LoadedCheckpoint:
    """Load a checkpoint strictly: no entry is missing or left over.

    Args:
        path: a file, a training output directory, a transformers directory, or a hub id.
        config: a detectron2 YAML, for settings that the weights do not contain; by default that
            beside the file, if there is one.

    Raises:
        CheckpointError: the file is unreadable, or its entries do not fit the architecture.
        ConfigError: the YAML is unreadable or contradicts the weights.
    """
    contents = read_contents(local_path(path), None if config is None else Path(config))
    with torch.device("meta"):  # takes no memory, whatever sizes the file states
        check_weights_fit(contents.weights, build_uninitialized(contents.config))
    model = build_uninitialized(contents.config)
    check_weights_fit(contents.weights, model)
    model.load_state_dict(contents.weights.weights)
    weights = contents.weights
    metadata = {x.name: getattr(contents, x.name) for x in fields(CheckpointMetadata)}
    return LoadedCheckpoint(
        weights.path, weights.format, files_sha256(weights.files), model.eval(), **metadata
    )


def read_contents(path: Path, config: Path | None = None) -> CheckpointContents:
    """Read weights and architecture of a checkpoint without building the model.

    Raises:
        CheckpointError, ConfigError: as for `load_checkpoint`.
    """
    if not (path.is_dir() and is_transformers_directory(path)):
        return interpret_weights(read_weights(path), config)
    if config is not None:
        raise ConfigError(f"{config}: {path} has its own config.json; leave the file out")
    return read_transformers(path)


def interpret_weights(weights: Weights, config: Path | None = None) -> CheckpointContents:
    """Find the architecture of weights: in the recipe, the file, the YAML, or from the shapes.

    Raises:
        CheckpointError, ConfigError: as for `load_checkpoint`.
    """
    own, source = weights.extra.get("mpdiag", {}), str(weights.path)
    if config is not None and ("recipe" in own or "model" in own):
        raise ConfigError(f"{config}: {source} holds its own configuration; leave it out")
    if "recipe" in own:
        recipe = parse(TrainConfig, upgrade_config(own["recipe"]), source)
        data = recipe.data
        info = TrainingInfo(recipe.loss, data.short_side, data.long_side)
        return CheckpointContents(
            weights, recipe.model, recipe=recipe, classes=own.get("classes"), training_info=info
        )
    if "model" in own:
        return _converted_contents(weights, own)
    model = _with_pixel_statistics(model_config_of(weights.weights, source), weights)
    no_object = _no_object_weight(weights)
    contents = CheckpointContents(weights, model, classes=own.get("classes"))
    # A recipe without class names leaves those of COCO in the file.
    if weights.labels is not None and len(weights.labels) == model.num_classes:
        contents.labels = weights.labels
    contents.config_path = config or find_config(weights.path)
    if contents.config_path is not None:
        points = num_sampling_points(weights.weights)
        contents.config, contents.training_info = apply_detectron2_config(
            contents.config_path, model, points, no_object
        )
    elif no_object is not None:
        loss = parse(LossConfig, {"no_object_weight": no_object}, source)
        contents.training_info = TrainingInfo(loss)
    return contents


def build_model(config: ModelConfig) -> Mask2Former:
    """Build a model without pretrained weights."""
    backbone = config.backbone.model_copy(update={"pretrained": False})
    return Mask2Former(config.model_copy(update={"backbone": backbone}))


def build_uninitialized(config: ModelConfig) -> Mask2Former:
    """Build a model whose random weights are 0, for weights that are loaded, in less time."""
    with _ZerosForRandomValues():
        return build_model(config)


class _ZerosForRandomValues(TorchFunctionMode):
    """Makes initialization fast. A function that draws until all values are in range still ends."""

    _DRAWS = frozenset(
        {
            Tensor.normal_,
            Tensor.uniform_,
            nn.init.normal_,
            nn.init.uniform_,
            nn.init.kaiming_normal_,
            nn.init.kaiming_uniform_,
        }
    )

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self._DRAWS:
            tensor: Tensor = args[0] if args else kwargs["tensor"]
            return tensor.detach().zero_()
        if func is torch.randn:
            func = torch.zeros
        return func(*args, **kwargs)


def check_weights_fit(weights: Weights, model: Mask2Former) -> None:
    """Check that the entries of `weights` are those of `model`, with the same shapes.

    Raises:
        CheckpointError: lists the missing and unexpected entries, or the first entry that differs.
    """
    expected = model.state_dict()
    implied = {name: x for name, x in model.named_buffers() if name not in expected}
    missing = sorted(expected.keys() - weights.weights.keys())
    unexpected = sorted(weights.weights.keys() - expected.keys())
    unexpected += sorted(weights.derived_buffers.keys() - implied.keys()) + weights.unexpected
    if missing or unexpected:
        raise CheckpointError(
            f"{weights.path}: does not fit its architecture: {_abbreviate(missing)} missing, "
            f"{_abbreviate(unexpected)} left over"
        )
    for name, tensor in (weights.weights | weights.derived_buffers).items():
        here = (expected | implied)[name]
        if tensor.shape != here.shape:
            raise CheckpointError(
                f"{weights.path}: {name} is {tuple(tensor.shape)}, its architecture has "
                f"{tuple(here.shape)}"
            )
    for name, tensor in weights.derived_buffers.items():
        here = implied[name]
        if not here.is_meta and not torch.equal(tensor.to(here.dtype), here):
            raise CheckpointError(f"{weights.path}: {name} is not that of a Swin; it was changed")


def _converted_contents(weights: Weights, own: Mapping[str, Any]) -> CheckpointContents:
    """Read a file that `convert` wrote from a checkpoint without a recipe."""
    source = str(weights.path)
    own = upgrade_config(own)
    loss = parse(LossConfig, own.get("loss", {}), source)
    return CheckpointContents(
        weights,
        parse(ModelConfig, own["model"], source),
        classes=own.get("classes"),
        labels=own.get("labels"),
        training_info=TrainingInfo(
            loss,
            *image_sides(own, "short_side", "long_side", source),
            resize="none" if own.get("resize") == "none" else "shortest-edge",
        ),
    )


def _with_pixel_statistics(config: ModelConfig, weights: Weights) -> ModelConfig:
    """Take pixel mean and deviation from the weights, where early versions stored them."""
    changes = {
        name: tuple(weights.constants[key].flatten().tolist())
        for key, name in ((PIXEL_MEAN, "pixel_mean"), (PIXEL_STD, "pixel_std"))
        if key in weights.constants
    }
    return parse(ModelConfig, config.model_dump() | changes, str(weights.path))


def _no_object_weight(weights: Weights) -> float | None:
    """Return the weight of no-object, the only loss weight that a state dict holds."""
    if EMPTY_WEIGHT not in weights.constants:
        return None
    return round(float(weights.constants[EMPTY_WEIGHT].flatten()[-1]), 6)


def _abbreviate(names: Iterable[str]) -> str:
    names = list(names)
    if not names:
        return "none"
    more = f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{len(names)} ({', '.join(names[:NAMES_SHOWN])}{more})"
