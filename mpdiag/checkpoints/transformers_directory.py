"""Read and write directories of transformers' Mask2Former without the library."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mpdiag import untrusted
from mpdiag.checkpoints.architecture import model_config_of
from mpdiag.checkpoints.contents import CheckpointContents
from mpdiag.checkpoints.detectron2_config import TrainingInfo
from mpdiag.checkpoints.official_keys import EMPTY_WEIGHT
from mpdiag.checkpoints.reading import Weights, check_metadata, read_state_dict, unwrap
from mpdiag.checkpoints.transformers_config import (
    PUBLISHED_SIZE,
    architecture_settings,
    check_settings,
    label_settings,
    labels_of,
    loss_of,
    loss_settings,
    preprocessor_settings,
    training_info_of,
    with_drop_path,
    with_pixel_statistics,
)
from mpdiag.checkpoints.transformers_keys import BATCH_COUNT, from_transformers, to_transformers
from mpdiag.config import LossConfig, TrainConfig, abbreviate, parse
from mpdiag.errors import CheckpointError
from mpdiag.legacy_names import upgrade_config
from mpdiag.models import Mask2Former
from mpdiag.printable import printable

_log = logging.getLogger(__name__)

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, INDEX = ("model.safetensors", "pytorch_model.bin"), ".index.json"  # of shards
CLASS_EMBEDDINGS = "mask_piloting.safetensors"
"""File of the class embeddings, which transformers does not read; MaskPiloting does."""
CLASS_EMBEDDINGS_TENSOR = "class_embeddings"


def is_transformers_directory(directory: Path) -> bool:
    """Return whether transformers' `save_pretrained` wrote a model to `directory`."""
    names = [name + suffix for name in WEIGHTS for suffix in ("", INDEX)]
    return any((directory / name).is_file() for name in names)


def directory_of(path: Path) -> Path:
    """Return the transformers directory whose weights `path` holds; another path unchanged."""
    if path.name in WEIGHTS and path.is_file() and model_type_of(path.parent) is not None:
        return path.parent
    return path


def weight_files(directory: Path) -> list[Path]:
    """Return the files of weights, or all shards; safetensors if there are both formats.

    Raises:
        CheckpointError: there are none, or a shard is missing.
    """
    for name in WEIGHTS:
        whole, index = directory / name, directory / f"{name}{INDEX}"
        if whole.is_file():
            return [whole]
        if index.is_file():
            return _shards(index)
    raise CheckpointError(
        f"{directory}: holds no {' or '.join(WEIGHTS)}; give a complete directory"
    )


def _shards(index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, Mapping) or not all(isinstance(x, str) for x in names.values()):
        raise CheckpointError(f"{index}: its weight_map is invalid; download the file again")
    # File names only, so that an index can't point outside its directory.
    files = [index.parent / Path(name).name for name in sorted(set(names.values()))]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file, but {index.name} lists it; copy it there")
    return files


def read_weight_files(files: Sequence[Path]) -> dict[str, Tensor]:
    """Return the parameters of all files, without the prefixes of wrappers."""
    return unwrap({name: x for file in files for name, x in read_state_dict(file).items()})


def model_type_of(directory: Path) -> str | None:
    """Return the `model_type` of config.json; None if there is no such file or key."""
    path = directory / CONFIG
    model_type = read_json(path).get("model_type") if path.exists() else None
    return None if model_type is None else printable(model_type, 60)


def read_transformers(directory: Path) -> CheckpointContents:
    """Read the weights, config.json, and preprocessor_config.json if there is one.

    Raises:
        CheckpointError: a file is missing, unreadable or of another model; config.json contradicts
            the weights, or requires something that mpdiag's model does not support.
        UnsafeCheckpointError: reading the weights would run code.
    """
    files = weight_files(directory)
    path = files[0] if len(files) == 1 else directory
    source = str(directory / CONFIG)
    settings = read_json(directory / CONFIG)
    if settings.get("model_type") != "mask2former":
        raise CheckpointError(
            f"{source}: model_type = {abbreviate(settings.get('model_type'))}; mpdiag reads "
            "mask2former only; mpdiag analyze runs other models by transformers"
        )
    own = settings["mpdiag"] if isinstance(settings.get("mpdiag"), dict) else {}
    check_metadata(own, source)
    weights, unexpected = from_transformers(read_weight_files(files))
    if own.get("norm") == "frozen":
        weights = {name: x for name, x in weights.items() if not name.endswith(BATCH_COUNT)}
    config = with_drop_path(model_config_of(weights, str(path)), settings, source)
    check_settings(settings, architecture_settings(config, weights), source)
    images = directory / PREPROCESSOR
    preprocessor = {}
    if images.is_file():
        preprocessor = read_json(images)
    else:
        _log.info(
            "%s: no such file; images are preprocessed as for the published models: statistics of "
            "ImageNet, sides of %d and at most %d pixels",
            images,
            *PUBLISHED_SIZE,
        )
    config = with_pixel_statistics(config, preprocessor, str(images))
    loss = loss_of(settings, LossConfig(), source)
    found = CheckpointContents(
        Weights(path, "transformers directory", weights, unexpected=unexpected, files=files),
        config,
        config_path=directory / CONFIG,
        training_info=training_info_of(preprocessor, loss, str(images)),
        labels=labels_of(settings, config.num_classes, source),
    )
    _add_mpdiag_entry(found, own, settings, source)
    return found


def _add_mpdiag_entry(
    found: CheckpointContents, own: Mapping[str, Any], settings: Mapping[str, Any], source: str
) -> None:
    """Add what mpdiag wrote, unless transformers has saved another model since."""
    classes = own.get("classes")
    if classes and len(classes) == found.config.num_classes:
        found.classes = classes
    if "recipe" not in own:
        return
    recipe = parse(TrainConfig, upgrade_config(own["recipe"]), source)
    same = recipe.model.model_copy(update={"backbone": found.config.backbone})
    if same == found.config:
        found.recipe = recipe
        assert found.training_info is not None
        loss = loss_of(settings, recipe.loss, source)
        found.training_info = replace(found.training_info, loss=loss)


def write_transformers(
    directory: Path,
    model: Mask2Former,
    training_info: TrainingInfo | None = None,
    *,
    labels: Sequence[str] | None = None,
    classes: Sequence[Mapping[str, Any]] | None = None,
    recipe: TrainConfig | None = None,
) -> None:
    """Write config.json, preprocessor_config.json and model.safetensors into `directory`.

    If the model has no query positions (MP-Former), they are written as zeros, which gives equal
    outputs. Class embeddings, which only training uses, are written to `mask_piloting.safetensors`,
    where `mpdiag.integrations.transformers.MaskPiloting` finds them.

    The entry `mpdiag` of config.json holds `norm` (transformers has no frozen norms), `classes` and
    `recipe`; `read_transformers` reads it.

    Args:
        directory: an existing directory.
        model: its weights are written.
        training_info: losses and image size; by default the published values.
        labels: name of each class; by default those of `classes`.
        classes: category_id, name and isthing of each class.
        recipe: training configuration of the model.

    Raises:
        CheckpointError: transformers' Mask2Former does not support the backbone or pixel decoder.
    """
    training_info = training_info or TrainingInfo(LossConfig())
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
        **loss_settings(training_info.loss),
        "dropout": 0.0,
        "use_auxiliary_loss": True,
        **label_settings(labels or names),
        "mpdiag": own,
    }
    state = _state_dict(model, training_info.loss.no_object_weight)
    _write_json(directory / CONFIG, settings)
    size = _image_size(training_info, recipe)
    _write_json(directory / PREPROCESSOR, preprocessor_settings(config, size))
    save_file(state, directory / WEIGHTS[0], metadata={"format": "pt"})
    if model.decoder.label_embed is not None:
        embeddings = model.decoder.label_embed.weight.detach().cpu()
        save_file({CLASS_EMBEDDINGS_TENSOR: embeddings}, directory / CLASS_EMBEDDINGS)


def _state_dict(model: Mask2Former, no_object_weight: float) -> dict[str, Tensor]:
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    weights.pop("decoder.label_embed.weight", None)
    zeros = torch.zeros_like(weights["decoder.query_feat.weight"])
    weights.setdefault("decoder.query_embed.weight", zeros)
    state, unexpected = to_transformers(weights)
    if unexpected:
        raise CheckpointError(f"{unexpected[0]}: transformers' Mask2Former has no such parameter")
    state[EMPTY_WEIGHT] = torch.ones(model.config.num_classes + 1)
    state[EMPTY_WEIGHT][-1] = no_object_weight
    return state


def _image_size(training_info: TrainingInfo, recipe: TrainConfig | None) -> tuple[int, int] | None:
    """Return short and long side at inference; None if images keep their size."""
    if (recipe and recipe.data.short_side is None) or training_info.resize == "none":
        return None
    short, long = PUBLISHED_SIZE
    return training_info.short_side or short, training_info.long_side or long


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; CheckpointError if there is none."""
    try:
        content = untrusted.read_json(path)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no such file; a transformers directory needs it beside its weights"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable JSON file ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: contains a {type(content).__name__}, not an object of settings"
        )
    return content


def _write_json(path: Path, settings: dict[str, Any]) -> None:
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
