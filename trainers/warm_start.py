"""Weights that a training starts from: packaged ones by name, or a checkpoint file."""

import logging
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from mpdiag.checkpoints import read_weights
from mpdiag.errors import ConfigError

WEIGHTS = Path(__file__).parent / "weights"

_log = logging.getLogger(__name__)


def load_initial(model: nn.Module, source: str) -> None:
    """Fill the parameters that `source` holds; the others keep their random start, and are counted.

    Args:
        model: the model to fill in place.
        source: name of a packaged file (`synthetic-tiny`), or path of a checkpoint: a model, whole
            or in part, or an ImageNet backbone (R-50.pkl, torchvision, timm, Swin).

    Raises:
        ConfigError: an entry does not exist in the model or has another shape.
        CheckpointError: the file can't be read, or has entries of another model.
    """
    packaged = WEIGHTS / f"{source}.safetensors"
    own = model.state_dict()
    backbone = {name for name in own if name.startswith("backbone.")}
    found = read_weights(packaged if packaged.is_file() else Path(source), backbone)
    if found.unknown:
        raise ConfigError(f"init = {source}: its {found.unknown[0]} belongs to another model")
    # A count for running averages that a frozen norm does not make.
    weights = {
        name: tensor
        for name, tensor in found.weights.items()
        if name in own or not name.endswith(".num_batches_tracked")
    }
    for name, tensor in weights.items():
        _check(source, name, tensor, own.get(name))
    model.load_state_dict(
        {name: tensor.to(own[name].dtype) for name, tensor in weights.items()}, strict=False
    )
    _log.info("%s filled %d of %d entries", source, len(weights), len(own))


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
        raise ConfigError(f"init = {source}: its {name} does not exist in the recipe's model")
    if own.shape != tensor.shape:
        raise ConfigError(
            f"init = {source}: its {name} is {tuple(tensor.shape)}, "
            f"the recipe's model has {tuple(own.shape)}"
        )
