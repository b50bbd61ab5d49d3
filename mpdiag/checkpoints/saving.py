"""Writing checkpoints in the official form: official keys, tensors and plain containers only."""

import os
from pathlib import Path
from typing import Any

import torch

from mpdiag.checkpoints.official_keys import EMPTY_WEIGHT, IMPLIED, to_official
from mpdiag.models import Mask2Former


def save_checkpoint(
    path: Path, model: Mask2Former, *, no_object_weight: float = 0.1, **extra: Any
) -> None:
    """Write `{"model": official state dict, **extra}` atomically.

    The state dict also has the official criterion's `empty_weight` and Swin's position indices, so
    that the official repositories load it strictly. `extra` must be tensors and plain containers.
    """
    state = {to_official(name): tensor for name, tensor in model.state_dict().items()}
    for name, buffer in model.named_buffers():
        if name.endswith(IMPLIED):
            state[to_official(name)] = buffer
    empty_weight = torch.ones(model.config.num_classes + 1)
    empty_weight[-1] = no_object_weight
    state[EMPTY_WEIGHT] = empty_weight
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save({"model": state, **extra}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
