"""Keep the modes and the devices of a caller's module while it is analysed."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from torch import nn

from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.opening import ModelSource


@contextmanager
def preserve_state(source: ModelSource) -> Iterator[None]:
    """Restore the mode and the device of each submodule on exit. A path or hub id has none."""
    states = []
    for part in _modules(source):
        tensors = chain(part.parameters(recurse=False), part.buffers(recurse=False))
        states.append((part, part.training, next((tensor.device for tensor in tensors), None)))
    try:
        yield
    finally:
        for part, training, device in states:  # a module comes before its submodules
            part.training = training
            if device is not None:
                part.to(device)


def _modules(source: ModelSource) -> Iterator[nn.Module]:
    """Return the modules of a model that the caller holds."""
    if isinstance(source, str | Path):
        return iter(())
    if isinstance(source, nn.Module):
        return source.modules()
    module = source.model if isinstance(source, LoadedCheckpoint) else source.module
    return module.modules()
