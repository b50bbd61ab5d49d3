"""Download checkpoints of the Hugging Face hub."""

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from mpdiag.checkpoints.transformers_directory import directory_of
from mpdiag.errors import CheckpointError

_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SUFFIXES = (".pth", ".pkl", ".safetensors", ".bin", ".pt", ".yaml", ".json")
# Data only: no Python file, whatever the repository holds.
SETTINGS = ["*.json", "merges.txt"]
WEIGHTS, OLD_WEIGHTS = ["model*.safetensors"], ["pytorch_model*.bin"]


def is_hub_id(name: str | Path) -> bool:
    """Return whether `name` has the form of a hub id and is no local path.

    `runs/baseline` is a local path if there is a folder `runs`, even if it has no `baseline`.
    """
    text, path = str(name), Path(name)
    if not _ID.fullmatch(text) or path.suffix in _SUFFIXES or path.exists():
        return False
    return not path.parent.is_dir()


def local_path(name: str | Path) -> Path:
    """Return `name` as a path; download a hub id first, unless it is in the cache.

    Downloads settings and weights only, safetensors if there are any. The file of weights in a
    transformers directory stands for the directory.

    Raises:
        CheckpointError: the hub has no such model, refuses it, or can't be read.
    """
    if not is_hub_id(name):
        return directory_of(Path(name))
    try:
        copy = Path(huggingface_hub.snapshot_download(str(name), allow_patterns=SETTINGS + WEIGHTS))
        if not any(copy.glob(WEIGHTS[0])):
            patterns = SETTINGS + OLD_WEIGHTS
            copy = Path(huggingface_hub.snapshot_download(str(name), allow_patterns=patterns))
    except Exception as error:  # also those of the HTTP library
        reason = str(error).strip().partition("\n")[0]
        what, fix = "can't be read", "check the connection, or give a local path"
        if isinstance(error, RepositoryNotFoundError | HFValidationError):
            what, fix = "has no such model, or only for accounts with access", "check the name"
        raise CheckpointError(
            f"{name}: no such file or directory, and the Hugging Face hub {what} "
            f"({type(error).__name__}: {reason:.200}); {fix}"
        ) from None
    return copy
