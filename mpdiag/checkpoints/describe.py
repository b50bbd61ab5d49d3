"""Describe a checkpoint: format, family, architecture and size of its parts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mpdiag.checkpoints.architecture import backbone_config_of, family_name
from mpdiag.checkpoints.contents import CheckpointContents
from mpdiag.checkpoints.hub import local_path
from mpdiag.checkpoints.loading import (
    build_uninitialized,
    check_weights_fit,
    interpret_weights,
    read_contents,
)
from mpdiag.checkpoints.reading import Weights, read_weights
from mpdiag.checkpoints.transformers_directory import is_transformers_directory
from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.models.backbones import build_backbone
from mpdiag.models.swin import is_swin, swin_shape

PARTS = ("backbone", "pixel_decoder", "decoder")


@dataclass(frozen=True, slots=True)
class Description:
    """What `mpdiag info` prints.

    Attributes:
        path: the file of weights.
        format: format of the file.
        family: Mask2Former, MP-Former, or "backbone" for an ImageNet backbone alone.
        architecture: settings of the architecture, for display.
        trained_with: what recipe, config or file say about the training, for display.
        parameters: number of parameters of each part.
    """

    path: Path
    format: str
    family: str
    architecture: dict[str, str]
    trained_with: dict[str, str]
    parameters: dict[str, int]

    def rows(self) -> list[tuple[str, str]]:
        """Return everything as (name, value), for a table of two columns."""
        sizes = {part: f"{count:,} parameters" for part, count in self.parameters.items()}
        sizes["all parts"] = f"{sum(self.parameters.values()):,} parameters"
        return [
            ("file", str(self.path)),
            ("format", self.format),
            ("family", self.family),
            *self.architecture.items(),
            *self.trained_with.items(),
            *sizes.items(),
        ]


def describe(path: str | Path, config: str | Path | None = None) -> Description:
    """Describe a checkpoint or an ImageNet backbone without running it.

    Args:
        path: a checkpoint that `load_checkpoint` reads, or the file of a backbone.
        config: a detectron2 YAML, as for `load_checkpoint`.

    Raises:
        CheckpointError, ConfigError: as for `load_checkpoint`.
    """
    path, config = local_path(path), None if config is None else Path(config)
    if path.is_dir() and is_transformers_directory(path):
        contents = read_contents(path, config)
    else:
        weights = read_weights(path)
        if all(name.startswith("backbone.") for name in weights.weights):
            return _describe_backbone(weights)
        contents = interpret_weights(weights, config)
    with torch.device("meta"):
        model = build_uninitialized(contents.config)
    check_weights_fit(contents.weights, model)
    return Description(
        path=contents.weights.path,
        format=contents.weights.format,
        family=family_name(contents.config),
        architecture=_backbone_settings(contents.config.backbone)
        | _model_settings(contents.config),
        trained_with=_training_settings(contents),
        parameters={part.replace("_", " "): _size(model.get_submodule(part)) for part in PARTS},
    )


def _describe_backbone(weights: Weights) -> Description:
    config = backbone_config_of(weights.weights, str(weights.path))
    with torch.device("meta"):
        model, _ = build_backbone(config)
    return Description(
        path=weights.path,
        format=weights.format,
        family="backbone",
        architecture=_backbone_settings(config),
        trained_with={},
        parameters={"backbone": _size(model)},
    )


def _backbone_settings(config: BackboneConfig) -> dict[str, str]:
    if is_swin(config):
        shape = swin_shape(config)
        return {
            "backbone": config.name,
            "backbone width": f"{shape.embed_dim} at stride 4",
            "backbone blocks": f"{_joined(shape.depths)}, with {_joined(shape.num_heads)} heads",
            "backbone window": str(shape.window_size),
        }
    settings = {"backbone": config.name}
    if config.channels is not None:
        settings["backbone width"] = f"{_joined(config.channels)}, stem {config.stem_channels}"
    return settings | {"backbone norm": config.norm}


def _model_settings(config: ModelConfig) -> dict[str, str]:
    return {
        "classes": str(config.num_classes),
        "queries": str(config.num_queries),
        "channels": f"{config.hidden_dim}, mask features {config.mask_dim}",
        "heads": str(config.num_heads),
        "pixel decoder layers": (
            f"{config.encoder_layers}, feed-forward {config.encoder_feedforward_dim}, "
            f"{config.encoder_points} points"
        ),
        "decoder layers": f"{config.decoder_layers}, feed-forward {config.feedforward_dim}",
        "query positions": "learned" if config.query_position else "none",
        "class embeddings": "yes, for the MP part" if config.label_embedding else "none",
    }


def _training_settings(contents: CheckpointContents) -> dict[str, str]:
    settings: dict[str, Any] = {"config": contents.config_path}
    if contents.recipe is not None:
        settings["method"] = contents.recipe.method
        settings["data set"] = contents.recipe.data.dataset
    iteration = contents.weights.extra.get("iteration")
    settings["iteration"] = iteration if isinstance(iteration, int) else None
    info = contents.training_info
    if info is not None:
        loss = info.loss
        if contents.recipe is not None or contents.config_path is not None:
            settings["costs"] = (
                f"class {loss.class_weight:g}, mask {loss.mask_weight:g}, dice {loss.dice_weight:g}"
            )
        settings["no-object weight"] = f"{loss.no_object_weight:g}"
        if info.resize == "none":
            settings["image size"] = "that of the image files"
        elif info.short_side:
            settings["image size"] = f"{info.short_side}, at most {info.long_side}"
        if info.dataset is not None:
            settings["data set"] = info.dataset.dataset
    return {name: str(value) for name, value in settings.items() if value is not None}


def _joined(values: tuple[int, ...]) -> str:
    return "-".join(map(str, values))


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
