"""The device that runs a model."""

import torch

from mpdiag.errors import ConfigError
from mpdiag.printable import printable

DEVICE_TYPES = ("cpu", "cuda")


def choose_device(name: str | None) -> torch.device:
    """Return the named device; by default the current GPU, or the CPU if there is none.

    Raises:
        ConfigError: it is unknown or not available.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = find_device(name)
    try:
        torch.empty(0, device=device)
    except RuntimeError as error:
        raise _unavailable(name) from error
    return device


def find_device(name: str) -> torch.device:
    """Return the named device. CUDA is not initialised: that takes memory of the GPU.

    Raises:
        ConfigError: it is unknown, or there is no such GPU.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _unavailable(name) from error
    exists = device.type == "cpu" or (device.index or 0) < torch.cuda.device_count()
    if device.type not in DEVICE_TYPES or not exists:
        raise _unavailable(name)
    return device


def _unavailable(name: str) -> ConfigError:
    return ConfigError(
        f"--device {printable(name, 40)}: is not available; choose cpu, or a GPU that `mpdiag "
        "doctor` lists"
    )
