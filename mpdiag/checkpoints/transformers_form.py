"""A directory of transformers' Mask2FormerForUniversalSegmentation -> our model, and back.

The settings are those of transformers' `Mask2FormerConfig`, `ResNetConfig`, `SwinConfig` and
`Mask2FormerImageProcessor`; the library itself is not needed. Its pixel decoder samples 4 points,
has as many heads as the decoder, and knows no model without query positions.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mpdiag.checkpoints.architecture import ENCODER_POINTS, architecture_of
from mpdiag.checkpoints.transformers_keys import from_transformers, to_transformers
from mpdiag.config import BackboneConfig, LossConfig, ModelConfig, parse
from mpdiag.errors import CheckpointError
from mpdiag.models import Mask2Former

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
EMPTY_WEIGHT = "criterion.empty_weight"

# Our LossConfig's fields by transformers' names.
_LOSS = {
    "class_weight": "class_weight",
    "mask_weight": "mask_weight",
    "dice_weight": "dice_weight",
    "no_object_weight": "no_object_weight",
    "train_num_points": "points",
    "oversample_ratio": "oversample",
    "importance_sample_ratio": "importance",
}


@dataclass(slots=True)
class TransformersModel:
    """What a transformers directory holds.

    Attributes:
        path: the weights file.
        config: architecture, heads and pixel statistics included.
        loss: the costs and weights that the model was trained with.
        weights: our parameter name -> tensor on the CPU.
        unknown: transformers' names that our model has no place for.
        labels: name of each class in the order of the logits, or None if config.json has none.
        classes: category_id, name and isthing of each class, if we wrote the directory.
    """

    path: Path
    config: ModelConfig
    loss: LossConfig
    weights: dict[str, Tensor]
    unknown: list[str]
    labels: list[str] | None
    classes: list[dict[str, Any]] | None


def is_transformers(directory: Path) -> bool:
    """Whether `directory` looks like one that transformers' `save_pretrained` wrote."""
    return any((directory / name).is_file() for name in WEIGHTS)


def read_transformers(directory: Path) -> TransformersModel:
    """Read config.json, the weights, and the image statistics if the directory has them.

    Raises:
        CheckpointError: a file is missing or unreadable, another model's, or config.json asks for
            something that the weights are not, or that our model can't do.
        UnsafeCheckpointError: reading the weights would run code.
    """
    settings = _read_json(directory / CONFIG)
    kind = settings.get("model_type")
    if kind != "mask2former":
        raise CheckpointError(
            f"{directory / CONFIG}: model_type = {kind!r}; only mask2former can be read"
        )
    file = next((directory / name for name in WEIGHTS if (directory / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{directory}: no {' or '.join(WEIGHTS)} in this directory")
    state = read_state(file)
    state.pop(EMPTY_WEIGHT, None)
    weights, unknown = from_transformers(state)
    config = architecture_of(weights, str(file))
    config = config.model_copy(update=_statistics(directory / PREPROCESSOR))
    _check(settings, _architecture(config), str(directory / CONFIG))
    loss = {ours: settings[theirs] for theirs, ours in _LOSS.items() if theirs in settings}
    return TransformersModel(
        path=file,
        config=config,
        loss=parse(LossConfig, loss, str(directory / CONFIG)),
        weights=weights,
        unknown=unknown,
        labels=_labels(settings, config.num_classes, str(directory / CONFIG)),
        classes=settings.get("mpdiag", {}).get("classes"),
    )


def write_transformers(
    directory: Path,
    model: Mask2Former,
    loss: LossConfig,
    classes: Sequence[Mapping[str, Any]] | None = None,
) -> list[str]:
    """Write config.json, model.safetensors and preprocessor_config.json into `directory`.

    A model without query positions gets zeros for them, which changes nothing at inference.

    Returns:
        Our parameters that transformers has no place for, and that are not in the directory.

    Raises:
        CheckpointError: transformers' Mask2Former has no such backbone or pixel decoder.
    """
    config = model.config
    if config.encoder_points != ENCODER_POINTS:
        raise CheckpointError(
            f"model.encoder_points = {config.encoder_points}: transformers' Mask2Former has "
            f"{ENCODER_POINTS}"
        )
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    if not config.query_position:
        weights["decoder.query_embed.weight"] = torch.zeros_like(weights["decoder.query_feat.weight"])
    state, left = to_transformers(weights)
    state[EMPTY_WEIGHT] = torch.ones(config.num_classes + 1)
    state[EMPTY_WEIGHT][-1] = loss.no_object_weight
    names = [str(c["name"]) for c in classes] if classes else None
    _write_json(directory / CONFIG, _settings(config, loss, names, classes))
    _write_json(directory / PREPROCESSOR, _preprocessor(config))
    save_file(state, directory / WEIGHTS[0], metadata={"format": "pt"})
    return left


def _architecture(config: ModelConfig) -> dict[str, Any]:
    """What config.json says of the architecture, its fixed parts included."""
    return {
        "model_type": "mask2former",
        "backbone_config": _backbone(config.backbone),
        "hidden_dim": config.hidden_dim,
        "feature_size": config.hidden_dim,
        "mask_feature_size": config.mask_dim,
        "num_attention_heads": config.heads,
        "encoder_layers": config.encoder_layers,
        "encoder_feedforward_dim": config.encoder_feedforward_dim,
        "decoder_layers": config.decoder_layers + 1,  # M^0 counts as one there
        "dim_feedforward": config.feedforward_dim,
        "num_queries": config.num_queries,
        "activation_function": "relu",
        "pre_norm": False,
        "enforce_input_projection": False,
        "common_stride": 4,
        "feature_strides": [4, 8, 16, 32],
    }


def _settings(
    config: ModelConfig,
    loss: LossConfig,
    names: list[str] | None,
    classes: Sequence[Mapping[str, Any]] | None,
) -> dict[str, Any]:
    names = names or [f"LABEL_{index}" for index in range(config.num_classes)]
    values = loss.model_dump()
    weights = {theirs: values[ours] for theirs, ours in _LOSS.items() if values[ours] != "all"}
    return {
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        **_architecture(config),
        **weights,
        "dropout": 0.0,
        "use_auxiliary_loss": True,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        **({"mpdiag": {"classes": [dict(c) for c in classes]}} if classes else {}),
    }
