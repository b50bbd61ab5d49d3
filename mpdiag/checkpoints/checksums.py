"""SHA-256 checksums that identify the weights of a run."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

_BLOCK = 2**20


def files_sha256(files: Sequence[Path]) -> str:
    """Return the checksum of the contents of `files`, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def parameters_sha256(module: nn.Module) -> str:
    """Return the checksum of the names and values of a module's state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
