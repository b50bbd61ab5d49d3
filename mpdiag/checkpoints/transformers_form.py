"""Directories of transformers' Mask2FormerForUniversalSegmentation, read and written without it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mpdiag.checkpoints.architecture import architecture_of
from mpdiag.checkpoints.transformers_config import (
    Classes,
    architecture_settings,
    check_settings,
    labels_of,
    loss_of,
    model_settings,
    pixel_statistics,
    preprocessor_settings,
)
from mpdiag.checkpoints.transformers_keys import from_transformers, to_transformers
from mpdiag.config import LossConfig, ModelConfig
from mpdiag.errors import CheckpointError
from mpdiag.models import Mask2Former

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_EMPTY_WEIGHT = "criterion.empty_weight"  # the loss's class weights; not the network's


@dataclass(slots=True)
class TransformersModel:
    """What a transformers directory holds.

    Attributes:
        path: the file of weights.
        config: architecture and pixel statistics.
        loss: the costs and weights that the model was trained with.
        weights: our parameter name -> tensor on the CPU.
        unknown: transformers' names that our model has no place for.
        labels: name of each class in the order of the logits, if config.json has them.
        classes: category_id, name and isthing of each class, if the directory is ours.
    """

    path: Path
    config: ModelConfig
    loss: LossConfig
    weights: dict[str, Tensor]
    unknown: list[str]
    labels: list[str] | None
    classes: list[dict[str, Any]] | None


def is_transformers(directory: Path) -> bool:
    """Whether `directory` holds a model as transformers' `save_pretrained` writes it."""
    return any((directory / name).is_file() for name in WEIGHTS)


def read_transformers(directory: Path) -> TransformersModel:
    """Read the weights, config.json, and preprocessor_config.json where there is one.

    Raises:
        CheckpointError: a file is missing, unreadable or another model's; config.json contradicts
            the weights, or asks for what our model can't do.
        UnsafeCheckpointError: reading the weights would run code.
    """
    file = next((directory / name for name in WEIGHTS if (directory / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{directory}: no {' or '.join(WEIGHTS)} in this directory")
    source = str(directory / CONFIG)
    settings = _read_json(directory / CONFIG)
    if settings.get("model_type") != "mask2former":
        raise CheckpointError(
            f"{source}: model_type = {settings.get('model_type')!r}; only mask2former is read"
        )
    state = read_state(file)
    weights, unknown = from_transformers(
        {name: tensor for name, tensor in state.items() if name != _EMPTY_WEIGHT}
    )
    config = architecture_of(weights, str(file))
    check_settings(settings, architecture_settings(config, weights), source)
    if (directory / PREPROCESSOR).is_file():
        found = pixel_statistics(
            _read_json(directory / PREPROCESSOR), str(directory / PREPROCESSOR)
        )
        config = config.model_copy(update=found)
    return TransformersModel(
        path=file,
        config=config,
        loss=loss_of(settings, source),
        weights=weights,
        unknown=unknown,
        labels=labels_of(settings, config.num_classes, source),
        classes=settings.get("mpdiag", {}).get("classes"),
    )


def write_transformers(
    directory: Path, model: Mask2Former, loss: LossConfig, classes: Classes | None = None
) -> None:
    """Write config.json, preprocessor_config.json and model.safetensors into `directory`.

    A model without query positions (MP-Former) gets zeros for them, which is the same at
    inference. Its class embeddings, used in training alone, have no place there.

    Raises:
        CheckpointError: transformers' Mask2Former has no such backbone or pixel decoder.
    """
    config = model.config
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    weights.pop("decoder.label_embed.weight", None)
    if not config.query_position:
        zeros = torch.zeros_like(weights["decoder.query_feat.weight"])
        weights["decoder.query_embed.weight"] = zeros
    architecture = architecture_settings(config, weights)
    state, left = to_transformers(weights)
    if left:
        raise CheckpointError(f"{left[0]}: transformers' Mask2Former has no such parameter")
    state[_EMPTY_WEIGHT] = torch.ones(config.num_classes + 1)
    state[_EMPTY_WEIGHT][-1] = loss.no_object_weight
    settings = model_settings(architecture, config.num_classes, loss, classes)
    _write_json(directory / CONFIG, settings)
    _write_json(directory / PREPROCESSOR, preprocessor_settings(config))
    save_file(state, directory / WEIGHTS[0], metadata={"format": "pt"})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no such file; a transformers directory has it beside its weights"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable JSON file ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not settings")
    return content


def _write_json(path: Path, settings: dict[str, Any]) -> None:
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
