"""Environment variables that torchrun sets for each process."""

import os

from mpdiag.errors import ConfigError

_REQUIRED = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # by torch.distributed, of several processes


def world_size() -> int:
    """Return the number of processes, 1 without torchrun.

    Raises:
        ConfigError: WORLD_SIZE is not a number of at least 1, or others of the variables are
            missing or do not fit it.
    """
    count = _read("WORLD_SIZE", 1)
    missing = [name for name in _REQUIRED if count > 1 and name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE: is {count}, but {missing[0]} is not set; start with torchrun, or unset "
            "WORLD_SIZE"
        )
    if rank() >= count:
        raise ConfigError(f"RANK: {rank()} is not below WORLD_SIZE, {count}; start with torchrun")
    return count


def rank() -> int:
    """Return the number of this process among all, 0 without torchrun; errors as `world_size`."""
    return _read("RANK", 0)


def local_rank() -> int:
    """Return the number of this process on its machine; errors as `world_size`."""
    return _read("LOCAL_RANK", 0)


def local_gpu(available: int) -> int:
    """Return the number of the GPU of this process, of `available` GPUs; errors as `world_size`."""
    number = local_rank()
    if number >= available:
        raise ConfigError(
            f"LOCAL_RANK: is {number}, but there are {available} GPUs; start as many processes as "
            "there are GPUs"
        )
    return number


def _read(name: str, least: int) -> int:
    text = os.environ.get(name, str(least))
    if text.isdecimal() and len(text) < 10 and (value := int(text)) >= least:
        return value
    raise ConfigError(f"{name}: {text!r} is not a number of at least {least}; unset it")
