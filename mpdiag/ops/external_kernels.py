"""Deformable attention of other packages with the arguments of `ms_deform_attn`.

deformops is selected automatically on CUDA; the others run on request if they are installed.
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
from mpdiag.ops.custom_operator import AttentionFunction, SpatialShapes, register_operator
from mpdiag.ops.triton_driver import require_triton_driver

HUB_KERNEL = "kernels-community/deformable-detr"  # what transformers' `use_kernels` loads
IM2COL_STEP = 64  # number of images that the original extension processes at once


def load_deformops() -> AttentionFunction:
    """Load deformops (Triton), https://github.com/tue-p8n/deformops; it sums in float32."""
    if find_spec("deformops") is None and not (3, 12) <= sys.version_info < (3, 14):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise DependencyError(f"it needs Python 3.12 or 3.13, this is {version}")
    registry = _import_package("deformops.registry")
    _require_cuda()
    require_triton_driver()

    def function(
        value: Tensor, shapes: SpatialShapes, locations: Tensor, weights: Tensor
    ) -> Tensor:
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


def load_torch_ms_deform_attn() -> AttentionFunction:
    """Load torch-ms-deform-attn, a compiled operator for CPU, CUDA and MPS."""
    ms_deform_attn = _import_package("torch_ms_deform_attn").ms_deform_attn

    def function(
        value: Tensor, shapes: SpatialShapes, locations: Tensor, weights: Tensor
    ) -> Tensor:
        levels = _levels(tuple(map(tuple, shapes)), value.device)
        with torch.cuda.device_of(value):
            output: Tensor = ms_deform_attn(value, *levels, locations, weights)
        return output

    return function


def load_original() -> AttentionFunction:
    """Load the CUDA extension that Deformable DETR and Mask2Former compile."""
    _require_cuda()
    return _of_extension("original", _import_package("MultiScaleDeformableAttention"))


def load_transformers() -> AttentionFunction:
    """Load the kernel that transformers downloads from the Hugging Face Hub, if it is cached."""
    _require_cuda()
    get_kernel: Callable[..., ModuleType] = _import_package("kernels").get_kernel
    constants = import_module("huggingface_hub.constants")
    folder = HUB_KERNEL.replace("/", "--")
    if not list(Path(constants.HF_HUB_CACHE).glob(f"*s--{folder}")):
        raise DependencyError(f"{HUB_KERNEL} is not in the cache of the Hub; download it first")
    try:
        kernel = get_kernel(HUB_KERNEL, version=1)
    except (OSError, ValueError, RuntimeError) as error:
        raise DependencyError(f"{HUB_KERNEL} cannot be loaded: {error}") from error
    return _of_extension("transformers", kernel)


def _of_extension(name: str, extension: ModuleType) -> AttentionFunction:
    """Register the forward and backward functions of the original extension as an operator."""

    def forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
        levels = _levels(tuple(zip(shapes[::2], shapes[1::2], strict=True)), value.device)
        step = math.gcd(len(value), IM2COL_STEP)  # it must divide the batch
        with torch.cuda.device_of(value):  # the extension takes the current device
            output: Tensor = extension.ms_deform_attn_forward(
                value, *levels, locations, weights, step
            )
        return output

    def backward(
        grad: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        levels = _levels(tuple(zip(shapes[::2], shapes[1::2], strict=True)), value.device)
        with torch.cuda.device_of(value):
            grad_value, grad_locations, grad_weights = extension.ms_deform_attn_backward(
                value, *levels, locations, weights, grad, math.gcd(len(value), IM2COL_STEP)
            )
        return grad_value, grad_locations, grad_weights

    return register_operator(f"ms_deform_attn_{name}", forward, backward)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # cached tensors must also be usable in training
def _levels(shapes: tuple[tuple[int, ...], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (levels, 2) heights and widths and (levels,) start indices, int64, on the device."""
    sizes = torch.tensor(shapes, dtype=torch.int64)
    areas = sizes.prod(1)
    return sizes.to(device), (areas.cumsum(0) - areas).to(device)


def _import_package(name: str) -> ModuleType:
    package = name.partition(".")[0]
    if find_spec(package) is None:
        raise DependencyError(f"the package {package} is not installed")
    try:
        return import_module(name)
    except (ImportError, OSError) as error:
        raise DependencyError(f"the package {package} cannot be imported: {error}") from error


def _require_cuda() -> None:
    if not torch.cuda.is_available():
        raise DependencyError("no CUDA device is available to PyTorch")
