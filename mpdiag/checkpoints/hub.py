"""Checkpoints named by their id on the Hugging Face hub, brought onto this machine as files."""

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from mpdiag.errors import CheckpointError

_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = (".pth", ".pkl", ".safetensors", ".bin", ".pt", ".yaml", ".json")
# Data only: no Python file, whatever the repository holds.
SETTINGS = ["*.json", "merges.txt"]
WEIGHTS, OLD_WEIGHTS = ["model*.safetensors"], ["pytorch_model*.bin"]


def is_hub_id(name: str | Path) -> bool:
    """Whether a checkpoint's name is no path on this machine and could be an id on the hub.

    `runs/baseline` is a path, though nothing be there, where there is a folder `runs`.
    """
    text, path = str(name), Path(name)
    if not _ID.fullmatch(text) or path.suffix in _FILES or path.exists():
        return False
    return not path.parent.is_dir()


def local_path(name: str | Path) -> Path:
    """`name` as a path; where it is an id on the hub, that of a copy, downloaded unless it is here.

    Of the repository come settings and weights, safetensors where there are some; no code.

    Raises:
        CheckpointError: the hub has no such model, doesn't give it, or can't be reached.
    """
    if not is_hub_id(name):
        return Path(name)
    try:
        copy = Path(huggingface_hub.snapshot_download(str(name), allow_patterns=SETTINGS + WEIGHTS))
        if not any(copy.glob(WEIGHTS[0])):
            patterns = SETTINGS + OLD_WEIGHTS
            copy = Path(huggingface_hub.snapshot_download(str(name), allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        why = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{name}: no such file or directory, and the Hugging Face hub gives no model of this "
            f"id ({type(error).__name__}: {why:.200})"
        ) from None
    return copy
