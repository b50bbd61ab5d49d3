"""Weights that a training starts from: packaged ones by name, or a checkpoint file."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from mpdiag.checkpoints import Weights, read_weights
from mpdiag.checkpoints.transformers_form import is_transformers, read_transformers
from mpdiag.data import ClassInfo
from mpdiag.errors import ConfigError

WEIGHTS = Path(__file__).parent / "weights"
# Parameters with a row for each class.
OF_CLASSES = {
    "decoder.class_embed.weight",
    "decoder.class_embed.bias",
    "decoder.label_embed.weight",
}
# What gives a model the entries that not every one has.
MADE_BY = {
    "decoder.query_embed.weight": "model.query_position=true",
    "decoder.label_embed.weight": "model.label_embedding=true",
}

_log = logging.getLogger(__name__)


def load_initial(
    model: nn.Module,
    source: str,
    classes: Sequence[ClassInfo] = (),
    *,
    reset_classes: bool = False,
) -> None:
    """Fill the parameters that `source` holds; the others keep their random start, and are counted.

    Args:
        model: the model to fill in place.
        source: name of a packaged file (`synthetic-tiny`), or path of a checkpoint: a model, whole
            or in part, a transformers directory, or an ImageNet backbone (R-50.pkl, torchvision,
            timm, Swin).
        classes: of the data set; a checkpoint that knows its classes must have the same.
        reset_classes: leave class head and class embeddings at their random start.

    Raises:
        ConfigError: an entry does not exist in the model or has another shape, or the classes are
            others.
        CheckpointError: the file can't be read, or has entries of another model.
    """
    own = model.state_dict()
    found = _read(source, {name for name in own if name.startswith("backbone.")})
    if found.unknown:
        raise ConfigError(f"init = {source}: its {found.unknown[0]} belongs to another model")
    # A count for running averages that a frozen norm does not make.
    weights = {
        name: tensor
        for name, tensor in found.weights.items()
        if name in own or not name.endswith(".num_batches_tracked")
    }
    if reset_classes:
        left = sorted(OF_CLASSES & weights.keys())
        weights = {name: tensor for name, tensor in weights.items() if name not in OF_CLASSES}
        _log.info("%s: %s start anew (reset_classes)", source, ", ".join(left) or "no classes")
    else:
        _check_classes(source, found, own, classes)
    for name, tensor in weights.items():
        _check(source, name, tensor, own.get(name))
    model.load_state_dict(
        {name: tensor.to(own[name].dtype) for name, tensor in weights.items()}, strict=False
    )
    _log.info("%s filled %d of %d entries", source, len(weights), len(own))


def _read(source: str, backbone: set[str]) -> Weights:
    packaged, path = WEIGHTS / f"{source}.safetensors", Path(source)
    if packaged.is_file():
        return read_weights(packaged, backbone)
    if path.is_dir() and is_transformers(path):
        form = read_transformers(path)
        own = {"classes": form.classes} if form.classes else {}
        extra = {"mpdiag": own}
        return Weights(
            form.path, "transformers directory", form.weights, unknown=form.unknown, extra=extra
        )
    return read_weights(path, backbone)


def _check_classes(
    source: str, found: Weights, own: Mapping[str, Tensor], classes: Sequence[ClassInfo]
) -> None:
    head = found.weights.get("decoder.class_embed.bias")
    if head is None:
        return
    mend = "give reset_classes=true to start its class head anew"
    theirs, ours = len(head) - 1, len(own["decoder.class_embed.bias"]) - 1
    if theirs != ours:
        raise ConfigError(
            f"init = {source}: predicts {theirs} classes, but the data set has {ours}; {mend}"
        )
    noted = found.extra.get("mpdiag", {})
    names = [entry["name"] for entry in noted.get("classes") or []]
    for index, (name, info) in enumerate(zip(names, classes, strict=False)):
        if name != info.name:
            raise ConfigError(
                f"init = {source}: its class {index} is {name}, that of the data set {info.name}; "
                f"{mend}"
            )


def export(checkpoint: Path, file: Path) -> None:
    """Keep a pre-trained checkpoint's backbone and pixel decoder as a small half-precision file.

    How the packaged file is made, after `mpdiag train synthetic-pretrain --output RUN`:
    `python -c "from trainers.warm_start import *; export(Path('RUN'), WEIGHTS / 'NAME')"`.
    """
    kept = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in read_weights(checkpoint).weights.items()
        if name.startswith(("backbone.", "pixel_decoder."))
    }
    save_file(kept, file.with_suffix(".safetensors"))


def _check(source: str, name: str, tensor: Tensor, own: Tensor | None) -> None:
    if own is None:
        hint = f"; set {MADE_BY[name]}" if name in MADE_BY else ""
        raise ConfigError(f"init = {source}: its {name} does not exist in the recipe's model{hint}")
    if own.shape != tensor.shape:
        raise ConfigError(
            f"init = {source}: its {name} is {tuple(tensor.shape)}, "
            f"the recipe's model has {tuple(own.shape)}"
        )
