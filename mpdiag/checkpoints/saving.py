"""Write checkpoints with official keys, from tensors and plain containers only."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpdiag.checkpoints.official_keys import (
    DERIVED_BUFFER_SUFFIX,
    EMPTY_WEIGHT,
    VERSIONS,
    to_official,
)
from mpdiag.models import Mask2Former
from mpdiag.store.files import atomic_write


def official_state_dict(model: Mask2Former, no_object_weight: float) -> OrderedDict[str, Tensor]:
    """Return the state dict that the official repositories' model has for the same weights.

    It includes the criterion's `empty_weight`, Swin's position indices and the versions of the
    keys, so that the official repositories load it strictly. Tensors are not copied.
    """
    state = OrderedDict((to_official(name), x) for name, x in model.state_dict().items())
    for name, buffer in model.named_buffers():
        if name.endswith(DERIVED_BUFFER_SUFFIX):
            state[to_official(name)] = buffer
    empty_weight = torch.ones(model.config.num_classes + 1)
    empty_weight[-1] = no_object_weight
    state[EMPTY_WEIGHT] = empty_weight
    # torch stores module versions in this attribute of a state dict.
    vars(state)["_metadata"] = {path: {"version": number} for path, number in VERSIONS.items()}
    return state


def save_checkpoint(
    path: Path, model: Mask2Former, *, no_object_weight: float = 0.1, **extra: Any
) -> None:
    """Write `{"model": official state dict, **extra}` atomically.

    Args:
        path: file to write.
        model: its weights are saved.
        no_object_weight: loss weight of no-object.
        extra: further entries: tensors and plain containers.

    Raises:
        OutputError: the file cannot be written; a previous file at `path` is unchanged.
    """
    with atomic_write(path) as file:
        torch.save({"model": official_state_dict(model, no_object_weight), **extra}, file)
