"""Directories of transformers' Mask2FormerForUniversalSegmentation, read and written without it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mpdiag.checkpoints.architecture import architecture_of
from mpdiag.checkpoints.detectron2_config import Setup
from mpdiag.checkpoints.official_keys import EMPTY_WEIGHT
from mpdiag.checkpoints.reading import read_state
from mpdiag.checkpoints.transformers_config import (
    PUBLISHED_SIZE,
    architecture_settings,
    check_settings,
    label_settings,
    labels_of,
    loss_of,
    loss_settings,
    preprocessor_settings,
    size_of,
    with_drop_path,
    with_statistics,
)
from mpdiag.checkpoints.transformers_keys import BATCH_COUNT, from_transformers, to_transformers
from mpdiag.config import LossConfig, ModelConfig, TrainConfig, parse
from mpdiag.errors import CheckpointError
from mpdiag.models import Mask2Former

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


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
        short_side, long_side: of images at inference, in pixels, where a preprocessor_config.json
            says so.
        classes: category_id, name and isthing of each class, if the directory is ours.
        recipe: the settings it was trained with, if the directory is ours.
    """

    path: Path
    config: ModelConfig
    loss: LossConfig
    weights: dict[str, Tensor]
    unknown: list[str]
    labels: list[str] | None
    short_side: int | None = None
    long_side: int | None = None
    classes: list[dict[str, Any]] | None = None
    recipe: TrainConfig | None = None


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
    settings = read_json(directory / CONFIG)
    if settings.get("model_type") != "mask2former":
        raise CheckpointError(
            f"{source}: model_type = {settings.get('model_type')!r}; only mask2former is read by "
            "mpdiag itself, and only mpdiag analyze has transformers run another"
        )
    own = settings["mpdiag"] if isinstance(settings.get("mpdiag"), dict) else {}
    weights, unknown = from_transformers(read_state(file))
    if own.get("norm") == "frozen":
        weights = {name: x for name, x in weights.items() if not name.endswith(BATCH_COUNT)}
    config = with_drop_path(architecture_of(weights, str(file)), settings, source)
    check_settings(settings, architecture_settings(config, weights), source)
    path = directory / PREPROCESSOR
    preprocessor = read_json(path) if path.is_file() else {}
    config = with_statistics(config, preprocessor, str(path))
    found = TransformersModel(
        path=file,
        config=config,
        loss=loss_of(settings, LossConfig(), source),
        weights=weights,
        unknown=unknown,
        labels=labels_of(settings, config.num_classes, source),
    )
    found.short_side, found.long_side = size_of(preprocessor)
    _add_own(found, own, settings, source)
    return found


def _add_own(
    found: TransformersModel, own: Mapping[str, Any], settings: Mapping[str, Any], source: str
) -> None:
    """What only we write, unless transformers has since saved another model in its place."""
    classes = own.get("classes")
    if isinstance(classes, list) and len(classes) == found.config.num_classes:
        found.classes = classes
    if "recipe" not in own:
        return
    recipe = parse(TrainConfig, own["recipe"], source)
    same = recipe.model.model_copy(update={"backbone": found.config.backbone})
    if same == found.config:
        found.recipe = recipe
        found.loss = loss_of(settings, recipe.loss, source)


def write_transformers(
    directory: Path,
    model: Mask2Former,
    setup: Setup | None = None,
    *,
    labels: Sequence[str] | None = None,
    classes: Sequence[Mapping[str, Any]] | None = None,
    recipe: TrainConfig | None = None,
) -> None:
    """Write config.json, preprocessor_config.json and model.safetensors into `directory`.

    A model without query positions (MP-Former) gets zeros for them, which is the same at
    inference. Its class embeddings, used in training alone, have no place there.

    config.json's entry `mpdiag` is ours alone, and read back by `read_transformers`: `norm`, since
    transformers has no frozen norms, `classes` and `recipe`.

    Args:
        directory: where to; it is there already.
        model: its parameters are written as they are.
        setup: losses and image size, by default the published ones.
        labels: name of each class, by default those of `classes`.
        classes: category_id, name and isthing of each class.
        recipe: the settings that the model was trained with.

    Raises:
        CheckpointError: transformers' Mask2Former has no such backbone or pixel decoder.
    """
    setup = setup or Setup(LossConfig())
    config = model.config.model_copy(update={"query_position": True, "label_embedding": False})
    own: dict[str, Any] = {"norm": config.backbone.norm}
    names = [f"LABEL_{index}" for index in range(config.num_classes)]
    if classes:
        own["classes"] = [dict(info) for info in classes]
        names = [str(info["name"]) for info in classes]
    if recipe:
        own["recipe"] = recipe.model_copy(update={"model": config}).model_dump(mode="json")
    settings = {
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        **architecture_settings(config, model.state_dict()),
        **loss_settings(setup.loss),
        "dropout": 0.0,
        "use_auxiliary_loss": True,
        **label_settings(labels or names),
        "mpdiag": own,
    }
    state = _state(model, setup.loss.no_object_weight)
    _write_json(directory / CONFIG, settings)
    _write_json(directory / PREPROCESSOR, preprocessor_settings(config, _size(setup, recipe)))
    save_file(state, directory / WEIGHTS[0], metadata={"format": "pt"})


def _state(model: Mask2Former, no_object_weight: float) -> dict[str, Tensor]:
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    weights.pop("decoder.label_embed.weight", None)
    zeros = torch.zeros_like(weights["decoder.query_feat.weight"])
    weights.setdefault("decoder.query_embed.weight", zeros)
    state, left = to_transformers(weights)
    if left:
        raise CheckpointError(f"{left[0]}: transformers' Mask2Former has no such parameter")
    state[EMPTY_WEIGHT] = torch.ones(model.config.num_classes + 1)
    state[EMPTY_WEIGHT][-1] = no_object_weight
    return state


def _size(setup: Setup, recipe: TrainConfig | None) -> tuple[int, int] | None:
    """Shorter and longer side at inference; a recipe without them keeps each image's own."""
    if recipe and recipe.data.short_side is None:
        return None
    return setup.short_side or PUBLISHED_SIZE[0], setup.long_side or PUBLISHED_SIZE[1]


def read_json(path: Path) -> dict[str, Any]:
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
