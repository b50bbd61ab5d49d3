"""Deformable attention of other packages, brought to our arguments.

deformops is chosen by itself on CUDA; the others run where the user has them and asks.
"""

import math
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from mpdiag.errors import DependencyError
from mpdiag.ops.operator import Function, Shapes, operator

HUB_KERNEL = "kernels-community/deformable-detr"  # what transformers' `use_kernels` loads
STEP = 64  # images of a batch that the original extension takes at once


def load_deformops() -> Function:
    """deformops (Triton), https://github.com/tue-p8n/deformops; sums in float32."""
    if find_spec("deformops") is None and not (3, 12) <= sys.version_info < (3, 14):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise DependencyError(f"it is made for Python 3.12 and 3.13, this is {version}")
    registry = _imported("deformops.registry")
    _need_cuda()

    def function(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        output: Tensor = registry.msda(
            value,
            *_levels(tuple(map(tuple, shapes)), value.device),
            locations,
            weights.to(value.dtype),
            backend=registry.Backend.TRITON,
            fp32acc=True,
        )
        return output

    return function


def load_torch_ms_deform_attn() -> Function:
    """torch-ms-deform-attn, a compiled operator for CPU, CUDA and MPS."""
    ms_deform_attn = _imported("torch_ms_deform_attn").ms_deform_attn

    def function(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        levels = _levels(tuple(map(tuple, shapes)), value.device)
        output: Tensor = ms_deform_attn(value, *levels, locations, weights)
        return output

    return function


def load_original() -> Function:
    """The extension that Deformable DETR and Mask2Former compile."""
    _need_cuda()
    return _of_extension("original", _imported("MultiScaleDeformableAttention"))


def load_transformers() -> Function:
    """The kernel that transformers loads from the hub, if it was downloaded before."""
    _need_cuda()
    get_kernel: Callable[..., ModuleType] = _imported("kernels").get_kernel
    constants = import_module("huggingface_hub.constants")
    folder = HUB_KERNEL.replace("/", "--")
    if not list(Path(constants.HF_HUB_CACHE).glob(f"*s--{folder}")):
        raise DependencyError(f"{HUB_KERNEL} isn't in the cache of the hub; download it first")
    try:
        kernel = get_kernel(HUB_KERNEL, version=1)
    except (OSError, ValueError, RuntimeError) as error:
        raise DependencyError(f"{HUB_KERNEL} can't be loaded: {error}") from error
    return _of_extension("transformers", kernel)


def _of_extension(name: str, extension: ModuleType) -> Function:
    """The original's pair of functions, forward and backward, as an operator."""

    def forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
        levels = _levels(tuple(zip(shapes[::2], shapes[1::2], strict=True)), value.device)
        step = math.gcd(len(value), STEP)  # it must divide the batch
        output: Tensor = extension.ms_deform_attn_forward(value, *levels, locations, weights, step)
        return output

    def backward(
        grad: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        levels = _levels(tuple(zip(shapes[::2], shapes[1::2], strict=True)), value.device)
        of_value, of_locations, of_weights = extension.ms_deform_attn_backward(
            value, *levels, locations, weights, grad, math.gcd(len(value), STEP)
        )
        return of_value, of_locations, of_weights

    return operator(f"ms_deform_attn_{name}", forward, backward)


@lru_cache(maxsize=64)
def _levels(shapes: tuple[tuple[int, ...], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(levels, 2) heights and widths, and where each level starts; int64, kept on the device."""
    sizes = torch.tensor(shapes, dtype=torch.int64)
    areas = sizes.prod(1)
    return sizes.to(device), (areas.cumsum(0) - areas).to(device)


def _imported(name: str) -> ModuleType:
    package = name.partition(".")[0]
    if find_spec(package) is None:
        raise DependencyError(f"the package {package} isn't installed")
    try:
        return import_module(name)
    except (ImportError, OSError) as error:
        raise DependencyError(f"the package {package} can't be imported: {error}") from error


def _need_cuda() -> None:
    if not torch.cuda.is_available():
        raise DependencyError("PyTorch sees no CUDA device")
