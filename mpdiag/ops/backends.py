"""Selection of the implementation of deformable attention.

By default: deformops on CUDA, or the Triton kernel if deformops is not available; the C++ kernel on
the CPU; PyTorch's grid_sample elsewhere and where these cannot run. MPDIAG_DEFORM_ATTN=NAME or
`use_backend` select a backend explicitly. torch.compile keeps the backend selected at compile time.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module

import torch

from mpdiag.errors import DependencyError
from mpdiag.ops.custom_operator import AttentionFunction

log = logging.getLogger(__name__)

VARIABLE = "MPDIAG_DEFORM_ATTN"

_requested: str | None = None  # by use_backend
_functions: dict[str, AttentionFunction] = {}  # of the backends that were loaded


@dataclass(frozen=True)
class Backend:
    """An implementation of deformable attention.

    Attributes:
        name: value of MPDIAG_DEFORM_ATTN.
        description: text for `mpdiag doctor`.
        devices: device types it runs on; all if empty.
        loader: "module:function" in mpdiag.ops. It returns the implementation, or raises a
            DependencyError with the reason why it is not available.
        automatic: may be selected without an explicit request.
        dtypes: supported dtypes of values. Half precision is converted to float32 otherwise.
    """

    name: str
    description: str
    devices: tuple[str, ...]
    loader: str
    automatic: bool = False
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)


_HALF_AND_FLOAT = (torch.bfloat16, torch.float16, torch.float32)
BACKENDS = (  # in order of preference
    Backend(
        "deformops",
        "deformops' Triton kernel",
        ("cuda",),
        "external_kernels:load_deformops",
        True,
        _HALF_AND_FLOAT,
    ),
    Backend(
        "triton", "mpdiag's Triton kernel", ("cuda",), "triton_kernel:load", True, _HALF_AND_FLOAT
    ),
    Backend("cpp", "mpdiag's C++ kernel, compiled on first use", ("cpu",), "cpu_kernel:load", True),
    Backend("plain", "PyTorch's grid_sample", (), "plain_kernel:load", True),
    Backend(
        "torch_ms_deform_attn",
        "the package torch-ms-deform-attn",
        ("cpu", "cuda", "mps"),
        "external_kernels:load_torch_ms_deform_attn",
    ),
    Backend(
        "transformers",
        "the kernel of the Hugging Face Hub",
        ("cuda",),
        "external_kernels:load_transformers",
    ),
    Backend(
        "original",
        "the extension MultiScaleDeformableAttention",
        ("cuda",),
        "external_kernels:load_original",
    ),
)


def select_backend(device: str, dtype: torch.dtype) -> tuple[Backend, AttentionFunction]:
    """Return the backend, and its function, for tensors of a device type and dtype.

    Raises:
        DependencyError: the requested backend does not exist or cannot run.
    """
    name = _selected_name(device, dtype, _requested)
    return get_backend(name), _functions[name]


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Request a backend in all threads: `with use_backend("plain"):`. None requests nothing.

    Raises:
        DependencyError: there is no backend of that name.
    """
    global _requested
    if name is not None:
        get_backend(name)
    before, _requested = _requested, name
    try:
        yield
    finally:
        _requested = before


def get_backend(name: str) -> Backend:
    """Return the backend of a name.

    Raises:
        DependencyError: there is none.
    """
    for backend in BACKENDS:
        if backend.name == name:
            return backend
    names = ", ".join(backend.name for backend in BACKENDS)
    raise DependencyError(f"there is no backend {name} for deformable attention; use {names}")


def unavailable_reason(backend: Backend, device: str, dtype: torch.dtype) -> str | None:
    """Return why a backend cannot run on tensors of this device type and dtype, or None."""
    return _unsupported_reason(backend, device, dtype) or _load(backend)


def _unsupported_reason(backend: Backend, device: str, dtype: torch.dtype) -> str | None:
    if backend.devices and device not in backend.devices:
        return f"it requires {' or '.join(backend.devices)}"
    if dtype == torch.float64 and dtype not in backend.dtypes:
        return "it does not support float64"
    return None


@cache
def _load(backend: Backend) -> str | None:
    """Load a backend's function once; return why it cannot be loaded, or None."""
    module, _, name = backend.loader.partition(":")
    try:
        _functions[backend.name] = getattr(import_module(f"mpdiag.ops.{module}"), name)()
    except ModuleNotFoundError as error:  # such as triton, which not every platform has
        return f"the package {error.name} is not installed"
    except DependencyError as error:
        return str(error)
    return None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _selected_name(device: str, dtype: torch.dtype, requested: str | None) -> str:
    """Resolve and log; a constant for torch.compile, which cannot trace environment and loading."""
    chosen_by_code = requested is not None
    requested = requested or os.environ.get(VARIABLE) or None
    name, reason, is_fallback = resolve_backend(device, dtype, requested)
    level = logging.DEBUG if chosen_by_code else logging.INFO
    level = logging.WARNING if is_fallback else level
    _log_once(level, f"deformable attention on {device}: {name} ({reason})")
    return name


_log_once = cache(log.log)


@cache
def resolve_backend(
    device: str, dtype: torch.dtype, requested: str | None
) -> tuple[str, str, bool]:
    """Return the name of the backend to use, why, and whether a faster one cannot run.

    Raises:
        DependencyError: the requested backend does not exist or cannot run.
    """
    if requested is None:
        name, rejected = _preferred(device, dtype)
        reason = "; ".join(rejected) or f"the default on {device}"
        return name, reason, name == "plain" and bool(rejected)
    unavailable = unavailable_reason(get_backend(requested), device, dtype)
    if unavailable:
        raise DependencyError(
            f"the requested backend {requested} for deformable attention cannot run on {device}: "
            f"{unavailable}"
        )
    return requested, "requested", False


def _preferred(device: str, dtype: torch.dtype) -> tuple[str, list[str]]:
    """Return the first backend that can run, and why preferred ones for this device cannot."""
    rejected: list[str] = []
    for backend in BACKENDS:
        if not backend.automatic or _unsupported_reason(backend, device, dtype):
            continue
        reason = _load(backend)
        if reason is None:
            return backend.name, rejected
        rejected.append(f"{backend.name}: {reason}")
    raise AssertionError("PyTorch's grid_sample runs everywhere")
