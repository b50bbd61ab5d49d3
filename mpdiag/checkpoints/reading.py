"""Reading checkpoint files into our parameter names, without ever running code from them."""

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mpdiag.checkpoints.official_keys import from_official, to_official
from mpdiag.errors import CheckpointError, UnsafeCheckpointError

# Entries of official state dicts that are no weights of the network.
_SETTINGS = ("criterion.empty_weight", "pixel_mean", "pixel_std")


@dataclass(slots=True)
class Weights:
    """What a checkpoint file holds.

    Attributes:
        path: the file itself, also where a training output directory was given.
        weights: our parameter name -> tensor on the CPU.
        unknown: official names that our model has no place for.
        extra: the other entries of the file (optimizer, iteration, our own "mpdiag").
    """

    path: Path
    weights: dict[str, Tensor]
    unknown: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


def read_weights(path: Path) -> Weights:
    """Read a `.pth` or `.safetensors` file, or a training output directory's newest model.

    Raises:
        CheckpointError: missing, truncated, or no checkpoint of a segmentation model.
        UnsafeCheckpointError: reading it would run code.
    """
    file = _file_of(path)
    content: Mapping[str, Any] = (
        {"model": _read_safetensors(file)} if file.suffix == ".safetensors" else _read_torch(file)
    )
    state = content.get("model", content)
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise CheckpointError(
            f"{file}: no model in it; a checkpoint keeps its parameters by name, directly or "
            "under 'model'"
        )
    weights, unknown = {}, []
    for name, tensor in state.items():
        ours = name if _is_ours(name) else from_official(name)
        if ours is not None:
            weights[ours] = tensor
        elif name not in _SETTINGS:
            unknown.append(name)
    if not weights:
        raise CheckpointError(
            f"{file}: a checkpoint of something else than Mask2Former or MP-Former "
            f"({_example(unknown)})"
        )
    extra = {key: value for key, value in content.items() if key != "model"}
    return Weights(file, weights, unknown, extra if "model" in content else {})


def _file_of(path: Path) -> Path:
    if path.is_dir():
        for name in ("model_final.pth", "last.pth"):
            if (path / name).is_file():
                return path / name
        raise CheckpointError(
            f"{path}: no model_final.pth or last.pth in this directory; give a checkpoint file or "
            "a training output directory"
        )
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; give a .pth or .safetensors file")
    return path


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: truncated, or no safetensors file ({error})") from None


def _read_torch(file: Path) -> Mapping[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's note on old pickle protocols
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "Unsupported operand" in str(error):
            named = str(error).split("GLOBAL ")[-1].split(" ")[0].strip("`'\"")
            raise UnsafeCheckpointError(
                f"{file}: refused, since reading it would run code ({named}); ask its author for "
                "a file of tensors alone"
            ) from None
        raise CheckpointError(f"{file}: not a checkpoint that torch can read") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AssertionError):
        raise CheckpointError(
            f"{file}: truncated, or no checkpoint at all; fetch or copy it again"
        ) from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not a checkpoint")
    return content


def _is_ours(name: str) -> bool:
    try:
        return from_official(name) is None and from_official(to_official(name)) == name
    except KeyError:
        return False


def _example(names: list[str]) -> str:
    return f"its first entry is {names[0]}" if names else "it is empty"
