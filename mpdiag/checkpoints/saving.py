"""Writing checkpoints in the official form: official keys, tensors and plain containers only."""

from pathlib import Path
from typing import Any

import torch

from mpdiag.checkpoints.official_keys import EMPTY_WEIGHT, IMPLIED, to_official
from mpdiag.errors import CheckpointError
from mpdiag.models import Mask2Former
from mpdiag.store.files import replacing


def save_checkpoint(
    path: Path, model: Mask2Former, *, no_object_weight: float = 0.1, **extra: Any
) -> None:
    """Write `{"model": official state dict, **extra}` atomically.

    The state dict also has the official criterion's `empty_weight` and Swin's position indices, so
    that the official repositories load it strictly. `extra` must be tensors and plain containers.

    Raises:
        CheckpointError: it can't be written; what stood at `path` is still there.
    """
    state = {to_official(name): tensor for name, tensor in model.state_dict().items()}
    for name, buffer in model.named_buffers():
        if name.endswith(IMPLIED):
            state[to_official(name)] = buffer
    empty_weight = torch.ones(model.config.num_classes + 1)
    empty_weight[-1] = no_object_weight
    state[EMPTY_WEIGHT] = empty_weight
    try:
        with replacing(path) as file:
            torch.save({"model": state, **extra}, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: can't be written ({reason}); make room, or choose another directory"
        ) from None
