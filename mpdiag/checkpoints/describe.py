"""What a checkpoint is: form, family, architecture and the size of its parts; loads no code."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mpdiag.checkpoints.architecture import backbone_config_of, family_name
from mpdiag.checkpoints.hub import local_path
from mpdiag.checkpoints.loading import (
    CheckpointContents,
    build_model,
    check_weights_fit,
    read_contents,
    interpret_weights,
)
from mpdiag.checkpoints.reading import Weights, read_weights
from mpdiag.checkpoints.transformers_directory import is_transformers_directory
from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.models.backbones import build_backbone
from mpdiag.models.swin import is_swin, swin_shape


@dataclass(frozen=True, slots=True)
class Description:
    """What `mpdiag info` shows.

    Attributes:
        path: the file of weights.
        format: the kind of file and whose names it uses.
        family: Mask2Former, MP-Former, or "backbone" for an ImageNet backbone alone.
        architecture: settings and their values, in words, in reading order.
        trained_with: what recipe, config or file tell beyond the architecture.
        parameters: number of trainable parameters of each part.
    """

    path: Path
    format: str
    family: str
    architecture: dict[str, str]
    trained_with: dict[str, str]
    parameters: dict[str, int]

    def rows(self) -> list[tuple[str, str]]:
        """Everything as (what, value), parts last; for a table of two columns."""
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
    """Describe a checkpoint, or an ImageNet backbone; the model is not run.

    Args:
        path: what `load_checkpoint` reads, or a backbone's file.
        config: a detectron2 YAML, as for `load_checkpoint`.

    Raises:
        CheckpointError, ConfigError: as `load_checkpoint`; a checkpoint that does not fit its
            architecture has no description.
    """
    path, config = local_path(path), None if config is None else Path(config)
    if path.is_dir() and is_transformers_directory(path):
        opened = read_contents(path, config)
    else:
        found = read_weights(path)
        if all(name.startswith("backbone.") for name in found.weights):
            return _describe_backbone(found)
        opened = interpret_weights(found, config)
    with torch.device("meta"):
        model = build_model(opened.config)
    check_weights_fit(opened.weights, model)
    parts = ("backbone", "pixel_decoder", "decoder")
    return Description(
        path=opened.weights.path,
        format=opened.weights.format,
        family=family_name(opened.config),
        architecture=_backbone_words(opened.config.backbone) | _words(opened.config),
        trained_with=_training_words(opened),
        parameters={part.replace("_", " "): _size(model.get_submodule(part)) for part in parts},
    )


def _describe_backbone(found: Weights) -> Description:
    config = backbone_config_of(found.weights, str(found.path))
    with torch.device("meta"):
        model, _ = build_backbone(config)
    return Description(
        path=found.path,
        format=found.format,
        family="backbone",
        architecture=_backbone_words(config),
        trained_with={},
        parameters={"backbone": _size(model)},
    )


def _backbone_words(config: BackboneConfig) -> dict[str, str]:
    if is_swin(config):
        shape = swin_shape(config)
        return {
            "backbone": config.name,
            "backbone width": f"{shape.embed_dim} at stride 4",
            "backbone blocks": f"{_listed(shape.depths)}, with {_listed(shape.num_heads)} heads",
            "backbone window": str(shape.window_size),
        }
    words = {"backbone": config.name}
    if config.channels is not None:
        words["backbone width"] = f"{_listed(config.channels)}, stem {config.stem_channels}"
    return words | {"backbone norm": config.norm}


def _words(config: ModelConfig) -> dict[str, str]:
    return {
        "classes": str(config.num_classes),
        "queries": str(config.num_queries),
        "channels": f"{config.hidden_dim}, of mask features {config.mask_dim}",
        "heads": str(config.num_heads),
        "pixel decoder layers": (
            f"{config.encoder_layers}, feed-forward {config.encoder_feedforward_dim}, "
            f"{config.encoder_points} points"
        ),
        "decoder layers": f"{config.decoder_layers}, feed-forward {config.feedforward_dim}",
        "query positions": "learnt" if config.query_position else "none",
        "class embeddings": "yes, for the MP part" if config.label_embedding else "none",
    }


def _training_words(opened: CheckpointContents) -> dict[str, str]:
    words: dict[str, Any] = {"config": opened.config_path}
    if opened.recipe is not None:
        words["method"] = opened.recipe.method
    iteration = opened.weights.extra.get("iteration")
    words["iteration"] = iteration if isinstance(iteration, int) else None
    training_info = opened.training_info
    if training_info is not None:
        loss = training_info.loss
        if opened.recipe is not None or opened.config_path is not None:
            words["costs"] = (
                f"class {loss.class_weight:g}, mask {loss.mask_weight:g}, dice {loss.dice_weight:g}"
            )
        words["no-object weight"] = f"{loss.no_object_weight:g}"
        words["image size"] = (
            f"{training_info.short_side}, at most {training_info.long_side}" if training_info.short_side else None
        )
        words["data set"] = training_info.dataset
        if training_info.things is not None:
            words["classes by kind"] = f"{training_info.things} things, {training_info.stuff} stuff"
    return {name: str(value) for name, value in words.items() if value is not None}


def _listed(values: tuple[int, ...]) -> str:
    return "-".join(map(str, values))


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
