"""Writing checkpoints in the official form: official keys, tensors and plain containers only."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpdiag.checkpoints.official_keys import EMPTY_WEIGHT, IMPLIED, VERSIONS, to_official
from mpdiag.errors import CheckpointError
from mpdiag.models import Mask2Former
from mpdiag.store.files import replacing


def official_state(model: Mask2Former, no_object_weight: float) -> OrderedDict[str, Tensor]:
    """The state dict that the official repositories' own model of the same weights has.

    It also has the criterion's `empty_weight` and Swin's position indices, so that they load it
    strictly, and the versions of the names. The tensors are the model's own.
    """
    state = OrderedDict((to_official(name), x) for name, x in model.state_dict().items())
    for name, buffer in model.named_buffers():
        if name.endswith(IMPLIED):
            state[to_official(name)] = buffer
    empty_weight = torch.ones(model.config.num_classes + 1)
    empty_weight[-1] = no_object_weight
    state[EMPTY_WEIGHT] = empty_weight
    # Where torch keeps the versions of the modules in a state dict, and looks for them.
    vars(state)["_metadata"] = {path: {"version": number} for path, number in VERSIONS.items()}
    return state


def save_checkpoint(
    path: Path, model: Mask2Former, *, no_object_weight: float = 0.1, **extra: Any
) -> None:
    """Write `{"model": official state dict, **extra}` atomically.

    `extra` must be tensors and plain containers.

    Raises:
        CheckpointError: it can't be written; what stood at `path` is still there.
    """
    state = official_state(model, no_object_weight)
    try:
        with replacing(path) as file:
            torch.save({"model": state, **extra}, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: can't be written ({reason}); make room, or choose another directory"
        ) from None
