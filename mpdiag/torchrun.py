"""Environment variables that torchrun sets for each process."""

import os

from mpdiag.errors import ConfigError


def world_size() -> int:
    """Return the number of processes, 1 without torchrun.

    Raises:
        ConfigError: WORLD_SIZE is not a number of at least 1.
    """
    return _read("WORLD_SIZE", 1)


def rank() -> int:
    """Return the number of this process among all, 0 without torchrun; errors as `world_size`."""
    return _read("RANK", 0)


def local_rank() -> int:
    """Return the number of this process on its machine; errors as `world_size`."""
    return _read("LOCAL_RANK", 0)


def _read(name: str, least: int) -> int:
    text = os.environ.get(name, str(least))
    if text.isdecimal() and len(text) < 10 and (value := int(text)) >= least:
        return value
    raise ConfigError(f"{name}: {text!r} is not a number of at least {least}; unset it")
