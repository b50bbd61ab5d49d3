"""Load the C++ functions of `mask_kernel.cpp`."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from mpdiag.ops.compiled_library import library_or_none

SOURCE = Path(__file__).with_suffix(".cpp")


def mask_kernel() -> ctypes.CDLL | None:
    """Return the compiled functions; None, with a warning in the log, if they can't be compiled."""
    return library_or_none(SOURCE, "masks are compared by PyTorch")


def mask_kernel_for(values: Tensor) -> ctypes.CDLL | None:
    """Return the compiled functions if they support the values: on the CPU and not float64."""
    supported = values.device.type == "cpu" and values.dtype != torch.float64
    return mask_kernel() if supported else None
