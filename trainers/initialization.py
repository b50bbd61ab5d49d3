"""Initial weights of a training: packaged weights by name, or a checkpoint."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from mpdiag.checkpoints import Weights, read_weights
from mpdiag.checkpoints.transformers_directory import is_transformers_directory, read_transformers
from mpdiag.data import ClassInfo
from mpdiag.errors import ConfigError
from trainers.methods import METHODS
from trainers.pretrained_packages import EFFICIENTNET_LITE0, read_efficientnet_lite0

WEIGHTS = Path(__file__).parent / "weights"
# Parameters with one row per class.
PER_CLASS = {
    "decoder.class_embed.weight",
    "decoder.class_embed.bias",
    "decoder.label_embed.weight",
}
# Parameters with one row per query.
PER_QUERY = {"decoder.query_feat.weight", "decoder.query_embed.weight"}
# Settings that give a model these optional entries.
SETTING_OF = {
    "decoder.query_embed.weight": "model.query_position=true",
    "decoder.label_embed.weight": "model.label_embedding=true",
}

_log = logging.getLogger(__name__)


def initialize_model(
    model: nn.Module,
    source: str,
    classes: Sequence[ClassInfo] = (),
    *,
    reset_classes: bool = False,
) -> None:
    """Load the parameters that `source` has. The others keep their random initialization.

    Args:
        model: the model, changed in place.
        source: name of packaged weights (`synthetic-tiny`), `efficientnet-lite0` for the weights of
            an installed package, or path of a checkpoint: a model or part of one, a transformers
            directory, or an ImageNet backbone (R-50.pkl, torchvision, timm, Swin). A checkpoint may
            have another number of queries; query embeddings are not loaded then. Parts that the
            checkpoint's method did not train are not loaded either.
        classes: classes of the data set; those in the checkpoint, if any, must be the same.
        reset_classes: do not load class head and class embeddings.

    Raises:
        ConfigError: an entry does not exist in the model or has another shape, or the classes
            differ.
        CheckpointError: the file can't be read, or has entries of another model.
    """
    own = model.state_dict()
    found = _read(source, {name for name in own if name.startswith("backbone.")})
    if found.unexpected:
        raise ConfigError(f"init = {source}: {found.unexpected[0]} belongs to another model")
    # A frozen norm has no counter.
    weights = {
        name: tensor
        for name, tensor in found.weights.items()
        if name in own or not name.endswith(".num_batches_tracked")
    }
    weights = _without_other_queries(source, _trained_weights(source, found, weights), own)
    if reset_classes:
        left = sorted(PER_CLASS & weights.keys())
        weights = {name: tensor for name, tensor in weights.items() if name not in PER_CLASS}
        _log.info("%s: did not load %s (reset_classes)", source, ", ".join(left) or "any classes")
    else:
        _check_classes(source, weights, found, own, classes)
    for name, tensor in weights.items():
        _check(source, name, tensor, own.get(name))
    model.load_state_dict(
        {name: tensor.to(own[name].dtype) for name, tensor in weights.items()}, strict=False
    )
    _log.info("%s: loaded %d of %d entries", source, len(weights), len(own))


def _trained_weights(
    source: str, found: Weights, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights that the checkpoint's method trained; the others are random."""
    recipe = found.extra.get("mpdiag", {}).get("recipe")
    method = METHODS.get(str(recipe.get("method"))) if isinstance(recipe, dict) else None
    if method is None or method.trains_decoder:
        return dict(weights)
    _log.info("%s: did not load the decoder, which %s does not train", source, method.name)
    return {name: x for name, x in weights.items() if not name.startswith("decoder.")}


def _without_other_queries(
    source: str, weights: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights without query embeddings if the model has another number of queries."""
    name = "decoder.query_feat.weight"
    theirs, ours = weights.get(name), own.get(name)
    if theirs is None or ours is None or len(theirs) == len(ours):
        return dict(weights)
    _log.info(
        "%s: has %d queries and the model %d; query embeddings keep their random initialization",
        source, len(theirs), len(ours),
    )  # fmt: skip
    return {name: x for name, x in weights.items() if name not in PER_QUERY}


def _read(source: str, backbone: set[str]) -> Weights:
    if source == EFFICIENTNET_LITE0:
        return read_efficientnet_lite0(backbone)
    packaged, path = WEIGHTS / f"{source}.safetensors", Path(source)
    if packaged.is_file():
        return read_weights(packaged, backbone)
    if path.is_dir() and is_transformers_directory(path):
        contents = read_transformers(path)
        own = {"classes": contents.classes} if contents.classes else {}
        return replace(contents.weights, extra={"mpdiag": own})
    return read_weights(path, backbone)


def _check_classes(
    source: str,
    weights: Mapping[str, Tensor],
    found: Weights,
    own: Mapping[str, Tensor],
    classes: Sequence[ClassInfo],
) -> None:
    head = weights.get("decoder.class_embed.bias")
    if head is None:
        return
    fix = "set reset_classes=true to initialize the class head randomly"
    found_classes, num_classes = len(head) - 1, len(own["decoder.class_embed.bias"]) - 1
    if found_classes != num_classes:
        raise ConfigError(
            f"init = {source}: predicts {found_classes} classes, but the data set has "
            f"{num_classes}; {fix}"
        )
    noted = found.extra.get("mpdiag", {})
    names = [entry["name"] for entry in noted.get("classes") or []]
    for index, (name, info) in enumerate(zip(names, classes, strict=False)):
        if name != info.name:
            raise ConfigError(
                f"init = {source}: class {index} is {name}, but {info.name} in the data set; {fix}"
            )


def _check(source: str, name: str, tensor: Tensor, own: Tensor | None) -> None:
    if own is None:
        hint = f"; set {SETTING_OF[name]}" if name in SETTING_OF else ""
        raise ConfigError(f"init = {source}: {name} does not exist in the recipe's model{hint}")
    if own.shape != tensor.shape:
        raise ConfigError(
            f"init = {source}: {name} is {tuple(tensor.shape)}, but {tuple(own.shape)} in the "
            "recipe's model"
        )
