"""Load the C++ functions of `mask_kernel.cpp`."""

import ctypes
import logging
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mpdiag.errors import DependencyError
from mpdiag.ops.compiled_library import load_library

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_suffix(".cpp")


@cache
def mask_kernel() -> ctypes.CDLL | None:
    """Return the compiled functions; log a warning and return None if they cannot be compiled."""
    try:
        return load_library(SOURCE)
    except DependencyError as error:
        log.warning("masks are compared by PyTorch, which is slower: %s", error)
        return None


def mask_kernel_for(values: Tensor) -> ctypes.CDLL | None:
    """Return the compiled functions if they support the values: on the CPU and not float64."""
    supported = values.device.type == "cpu" and values.dtype != torch.float64
    return mask_kernel() if supported else None
