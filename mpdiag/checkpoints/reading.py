"""Checkpoint files of all forms read into our parameter names, without running code from them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mpdiag.checkpoints.backbone_keys import imagenet_backbone, timm_backbone
from mpdiag.checkpoints.official_keys import (
    EMPTY_WEIGHT,
    IMPLIED,
    PIXEL_MEAN,
    PIXEL_STD,
    from_official,
    to_official,
)
from mpdiag.checkpoints.unpickling import read_pickle
from mpdiag.errors import CheckpointError


@dataclass(slots=True)
class Weights:
    """What a checkpoint file holds.

    Attributes:
        path: the file itself, also where a training output directory was given.
        form: the kind of file and whose names it uses, in words.
        weights: our parameter name -> tensor on the CPU.
        implied: the same for tensors that the architecture implies (Swin's position index).
        settings: `criterion.empty_weight`, `pixel_mean` and `pixel_std`, where the file has them.
        unknown: names that our model has no place for.
        extra: the other entries of the file (optimizer, iteration, our own "mpdiag").
    """

    path: Path
    form: str
    weights: dict[str, Tensor]
    implied: dict[str, Tensor] = field(default_factory=dict)
    settings: dict[str, Tensor] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


def read_weights(path: Path, backbone: Collection[str] = ()) -> Weights:
    """Read a `.pth`, `.pkl` or `.safetensors` file, or a training output directory's newest model.

    It holds a model under the official names of any version, whole or in part, or an ImageNet
    backbone alone (detectron2, torchvision, timm or Swin), whose classifier is left out.

    Args:
        path: the file or directory.
        backbone: our names of the backbone's entries that are wanted. Needed for timm models other
            than ResNet and Swin alone, since their files do not say which model they are.

    Raises:
        CheckpointError: missing, truncated, or no checkpoint of a known model.
        UnsafeCheckpointError: reading it would run code.
    """
    file = _file_of(path)
    content = _content(file)
    state = _state(content, file)
    kind = "safetensors" if file.suffix == ".safetensors" else "pickle"
    found = imagenet_backbone(state, str(file)) or timm_backbone(state, backbone)
    if found is not None:
        return Weights(file, f"{kind} of an ImageNet backbone, {found.form}", found.weights)
    whole = Weights(file, f"{kind} with official (detectron2) names", {})
    for name, tensor in state.items():
        _sort_in(whole, name, tensor)
    if not whole.weights:
        raise CheckpointError(
            f"{file}: a checkpoint of something else than Mask2Former or MP-Former "
            f"({_example(whole.unknown)})"
        )
    if "model" in content:
        whole.extra = {key: value for key, value in content.items() if key != "model"}
    return whole


def read_state(file: Path) -> dict[str, Tensor]:
    """A checkpoint file's parameters under the names that it gives them.

    Raises:
        CheckpointError: missing, truncated, or without parameters.
        UnsafeCheckpointError: reading it would run code.
    """
    return _state(_content(file), file)


def _sort_in(found: Weights, name: str, tensor: Tensor) -> None:
    """Put one entry where it belongs; a second entry for the same parameter is unknown."""
    if name in (EMPTY_WEIGHT, PIXEL_MEAN, PIXEL_STD):
        found.settings[name] = tensor
        return
    ours = name if _is_ours(name) else from_official(name)
    if ours is None or ours in found.weights:
        found.unknown.append(name)
    elif ours.endswith(IMPLIED):
        found.implied[ours] = tensor
    else:
        found.weights[ours] = tensor


def _file_of(path: Path) -> Path:
    if path.is_dir():
        for name in ("model_final.pth", "last.pth"):
            if (path / name).is_file():
                return path / name
        raise CheckpointError(
            f"{path}: no model_final.pth or last.pth in this directory, nor a transformers model's "
            "model.safetensors or pytorch_model.bin; give a directory that has one, or a file"
        )
    return path


def _content(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise CheckpointError(f"{file}: no such checkpoint; give a .pth, .pkl or .safetensors file")
    if file.suffix == ".safetensors":
        try:
            return {"model": load_file(file)}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: truncated, or no safetensors file ({error})") from None
    content = read_pickle(file)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not a checkpoint")
    return content


def _state(content: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    """Parameters by name: under the key that trainers use for them, or the content itself."""
    key = next((key for key in ("model", "state_dict", "blobs") if key in content), None)
    state = content if key is None else content[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise CheckpointError(
            f"{file}: no model in it; a checkpoint keeps its parameters by name, directly or "
            "under 'model'"
        )
    wrapped = "module."  # what DistributedDataParallel puts before every name
    if state and all(name.startswith(wrapped) for name in state):
        return {name.removeprefix(wrapped): tensor for name, tensor in state.items()}
    return dict(state)


def _is_ours(name: str) -> bool:
    try:
        return from_official(name) is None and from_official(to_official(name)) == name
    except KeyError:
        return False


def _example(names: list[str]) -> str:
    return f"its first entry is {names[0]}" if names else "it is empty"
