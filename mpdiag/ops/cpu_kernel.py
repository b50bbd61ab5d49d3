"""Multi-scale deformable attention on the CPU in C++ (`cpu_kernel.cpp`).

Results are deterministic and do not depend on the number of threads.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mpdiag.ops.compiled_library import load_library
from mpdiag.ops.custom_operator import AttentionFunction, register_operator

SOURCE = Path(__file__).with_suffix(".cpp")


class CSizes(ctypes.Structure):
    """The struct `Sizes` of the C++ file."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                *("batch", "cells", "heads", "channels"),
                *("queries", "levels", "points", "threads"),
            )
        ),
        ("shapes", ctypes.POINTER(ctypes.c_int64)),
    )


def load() -> AttentionFunction:
    """Return the operator for float32 and float64 tensors.

    Raises:
        DependencyError: it cannot be compiled.
    """
    library = load_library(SOURCE)

    def call(direction: str, sizes: CSizes, *tensors: Tensor) -> None:
        suffix = str(tensors[0].dtype).removeprefix("torch.")
        kernel = library[f"{direction}_{suffix}"]
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        kernel(ctypes.byref(sizes), *pointers)

    def forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
        batch, _, heads, channels = value.shape
        output = value.new_empty(batch, locations.shape[1], heads * channels)
        call("forward", _sizes(value, shapes, locations), value, locations, weights, output)
        return output

    def backward(
        grad: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        grads = torch.zeros_like(value), torch.empty_like(locations), torch.empty_like(weights)
        sizes = _sizes(value, shapes, locations)
        call("backward", sizes, grad, value, locations, weights, *grads)
        return grads

    return register_operator("ms_deform_attn_cpu", forward, backward)


def _sizes(value: Tensor, shapes: Sequence[int], locations: Tensor) -> CSizes:
    queries, _, levels, points = locations.shape[1:5]
    flat = (ctypes.c_int64 * len(shapes))(*shapes)
    threads = torch.get_num_threads()
    return CSizes(*value.shape, queries, levels, points, threads, flat)
