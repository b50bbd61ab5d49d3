"""Read checkpoint files of all formats under mpdiag's parameter names, without running code."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mpdiag.checkpoints.backbone_keys import imagenet_backbone, timm_backbone
from mpdiag.checkpoints.mmdetection_keys import class_names, from_mmdetection, is_mmdetection
from mpdiag.checkpoints.official_keys import (
    DERIVED_BUFFER_SUFFIX,
    EMPTY_WEIGHT,
    PIXEL_MEAN,
    PIXEL_STD,
    from_official,
    to_official,
)
from mpdiag.checkpoints.transformers_keys import from_transformers, is_transformers
from mpdiag.checkpoints.unpickling import read_pickle
from mpdiag.errors import CheckpointError
from mpdiag.printable import printable

_MAX_ENTRIES = 10_000  # the largest models of transformers have about 3,000
# Of DistributedDataParallel and AveragedModel, and of torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")
_LIGHTNING = "model."  # of a Lightning module; also a part of the names of transformers
_LIGHTNING_VERSION = "pytorch-lightning_version"  # key of its files
_MAX_WRAPPERS = 8
_NUM_AVERAGED = "n_averaged"  # buffer of AveragedModel


@dataclass(slots=True)
class Weights:
    """Contents of a checkpoint file.

    Attributes:
        path: the file, also if a training output directory was given; the directory of shards.
        format: file format and library whose names it uses, for display.
        weights: mpdiag's parameter name -> tensor on the CPU.
        derived_buffers: buffers that follow from the architecture (Swin's position index).
        constants: `criterion.empty_weight`, `pixel_mean` and `pixel_std`, if the file has them.
        unexpected: names that mpdiag's model does not have.
        extra: other entries of the file (optimizer, iteration, "mpdiag").
        labels: name of each class in the order of the logits, if the file has mmdetection's `meta`.
        files: all files that were read.
    """

    path: Path
    format: str
    weights: dict[str, Tensor]
    derived_buffers: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    labels: list[str] | None = None
    files: Sequence[Path] = ()

    def __post_init__(self) -> None:
        self.files = self.files or [self.path]


def read_weights(path: Path, backbone: Collection[str] = ()) -> Weights:
    """Read a `.pth`, `.pkl` or `.safetensors` file, or the newest model of a training directory.

    The file holds a model, or a part of one, under the official names of any version or under those
    of mmdetection or transformers, or an ImageNet backbone alone (detectron2, torchvision, timm or
    Swin). The backbone's classifier is ignored, and so are the prefixes of DistributedDataParallel,
    AveragedModel, torch.compile and Lightning.

    Args:
        path: the file or directory.
        backbone: mpdiag's names of the backbone's entries. Required only for timm models other
            than ResNet and Swin, whose files do not identify the model.

    Raises:
        CheckpointError: the file is missing, truncated, or not a checkpoint of a known model.
        UnsafeCheckpointError: reading the file would run code.
    """
    file = _weights_file(path)
    content = _read_file(file)
    state = _state_dict(content, file)
    prefixes = [*_WRAPPERS, _LIGHTNING]
    if _LIGHTNING_VERSION in content:  # the module may call the model anything
        prefixes.append(next(iter(state), "").partition(".")[0] + ".")
    state = unwrap(state, prefixes)
    kind = "safetensors" if file.suffix == ".safetensors" else "pickle"
    found = imagenet_backbone(state, str(file)) or timm_backbone(state, backbone)
    if found is not None:
        return Weights(file, f"{kind} of an ImageNet backbone, {found.format}", found.weights)
    constants = (EMPTY_WEIGHT, PIXEL_MEAN, PIXEL_STD)
    known = {name: state.pop(name) for name in constants if name in state}
    library, entries = _entries(state)
    weights = Weights(file, f"{kind} with {library} names", {}, constants=known)
    for ours, name, tensor in entries:
        _add_entry(weights, ours, name, tensor)
    weights.labels = class_names(content.get("meta"))
    if not weights.weights:
        raise CheckpointError(
            f"{file}: not a checkpoint of Mask2Former or MP-Former "
            f"({_first_entry(weights.unexpected)}); give the directory of another model of "
            "transformers, or load the model with its own library and give it as "
            "mpdiag.CustomModel"
        )
    if "model" in content:
        weights.extra = {key: value for key, value in content.items() if key != "model"}
        check_metadata(weights.extra.get("mpdiag", {}), str(file))
    return weights


def check_metadata(own: Any, source: str) -> None:
    """Check the form of the entry in which mpdiag saves recipe, classes and labels.

    Raises:
        CheckpointError: it is not a mapping of plain values, or has classes of another form.
    """
    try:
        json.dumps(own)
        classes, labels = own.get("classes") or [], own.get("labels") or []
        valid = isinstance(classes, list) and isinstance(labels, list)
        valid = valid and all(isinstance(label, str) for label in labels)
        valid = valid and all(
            isinstance(info["category_id"], int) and isinstance(info["name"], str)
            for info in classes
        )
    except (TypeError, ValueError, KeyError, AttributeError):
        valid = False
    if not valid:
        raise CheckpointError(f"{source}: its 'mpdiag' entry is damaged; save the checkpoint again")


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Return the parameters of a checkpoint file under the names in the file.

    Raises:
        CheckpointError: the file is missing, truncated, or has no parameters.
        UnsafeCheckpointError: reading the file would run code.
    """
    return _state_dict(_read_file(file), file)


def _entries(state: Mapping[str, Tensor]) -> tuple[str, Iterable[tuple[str | None, str, Tensor]]]:
    """Return the library that named the entries, and mpdiag's name, None if there is none, the name
    in the file and the values of each.
    """
    if is_mmdetection(state):
        return "mmdetection", from_mmdetection(state)
    if is_transformers(state):
        known, unknown = from_transformers(state)
        found = [(name, name, x) for name, x in known.items()]
        return "transformers", [*found, *((None, name, state[name]) for name in unknown)]
    names = ((name if _is_mpdiag_name(name) else from_official(name), name) for name in state)
    return "official (detectron2)", ((ours, name, state[name]) for ours, name in names)


def _add_entry(found: Weights, ours: str | None, name: str, tensor: Tensor) -> None:
    """Add the entry `name`; a second entry for the same parameter is unexpected."""
    if ours is None or ours in found.weights:
        found.unexpected.append(name)
    elif ours.endswith(DERIVED_BUFFER_SUFFIX):
        found.derived_buffers[ours] = tensor
    else:
        found.weights[ours] = tensor


def _weights_file(path: Path) -> Path:
    if path.is_dir():
        for name in ("model_final.pth", "last.pth"):
            if (path / name).is_file():
                return path / name
        raise CheckpointError(
            f"{path}: this directory has no model_final.pth or last.pth, and no model.safetensors "
            "or pytorch_model.bin of transformers; give a directory that has one, or a file"
        )
    return path


def _read_file(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; give a .pth, .pkl or .safetensors file")
    if file.suffix == ".safetensors":
        try:
            return {"model": load_file(file)}
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{file}: truncated, or not a safetensors file ({printable(error, 200)}); copy the "
                "file again"
            ) from None
    content = read_pickle(file)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: contains a {type(content).__name__}, not a checkpoint")
    return content


def _state_dict(content: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    """Return the parameters: the entry that trainers use for them, or the content itself."""
    key = next((key for key in ("model", "state_dict", "blobs") if key in content), None)
    state = content if key is None else content[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise CheckpointError(
            f"{file}: contains no model; a checkpoint maps names to parameters, at the top level "
            "or under 'model'"
        )
    if len(state) > _MAX_ENTRIES:
        raise CheckpointError(
            f"{file}: has {len(state):,} entries; give a checkpoint of at most {_MAX_ENTRIES:,}"
        )
    for name, tensor in state.items():
        if not tensor.numel() or tensor.is_complex():
            raise CheckpointError(
                f"{file}: {printable(name, 200)} has no real numbers ({tuple(tensor.shape)}, "
                f"{tensor.dtype}); save the checkpoint again"
            )
    return dict(state)


def unwrap(state: Mapping[str, Tensor], prefixes: Sequence[str] = _WRAPPERS) -> dict[str, Tensor]:
    """Return the entries without the prefixes of the modules around the model."""
    found = dict(state)
    for _ in range(_MAX_WRAPPERS):
        found.pop(_NUM_AVERAGED, None)
        names = [name for name in found if name != EMPTY_WEIGHT]  # the criterion may be outside
        prefix = next((x for x in prefixes if all(name.startswith(x) for name in names)), "")
        if not names or not prefix:
            break
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def _is_mpdiag_name(name: str) -> bool:
    try:
        return from_official(name) is None and from_official(to_official(name)) == name
    except KeyError:
        return False


def _first_entry(names: list[str]) -> str:
    return f"its first entry is {names[0]}" if names else "it is empty"
