"""Which implementation of deformable attention runs, and why the others don't.

By itself: deformops on CUDA, or our Triton kernel where deformops isn't; our C++ kernel on the CPU;
plain PyTorch elsewhere, and where those can't run. MPDIAG_DEFORM_ATTN=NAME or `use_backend` ask for
one, the other implementations of the field among them. torch.compile keeps the backend that the
environment named when it compiled.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module

import torch

from mpdiag.errors import DependencyError
from mpdiag.ops.operator import Function
from mpdiag.ops.plain import plain_ms_deform_attn

log = logging.getLogger(__name__)

VARIABLE = "MPDIAG_DEFORM_ATTN"

_asked: str | None = None  # by use_backend
_functions: dict[str, Function] = {}  # of the backends that were loaded


@dataclass(frozen=True)
class Backend:
    """An implementation: its name, where it runs, and how to get its function.

    `load` raises a DependencyError, whose text is the reason, where it can't run on this machine.
    """

    name: str
    job: str
    devices: tuple[str, ...]  # empty: all
    load: Callable[[], Function]
    unasked: bool = False  # may be chosen without being asked for
    halves: bool = False  # reads float16 and bfloat16 values itself
    doubles: bool = True  # knows float64


def _from(module: str, name: str = "load") -> Callable[[], Function]:
    """A loader that imports its module, which may be slow or missing, when it is called."""

    def load() -> Function:
        try:
            found = import_module(f"mpdiag.ops.{module}")
        except ModuleNotFoundError as error:  # such as triton, which not every platform has
            raise DependencyError(f"the package {error.name} isn't installed") from error
        function: Function = getattr(found, name)()
        return function

    return load


BACKENDS = (  # in the order in which they are tried
    Backend(
        "deformops",
        "deformops' Triton kernel",
        ("cuda",),
        _from("peers", "load_deformops"),
        unasked=True,
        halves=True,
        doubles=False,
    ),
    Backend(
        "triton",
        "our Triton kernel",
        ("cuda",),
        _from("triton_kernel"),
        unasked=True,
        halves=True,
        doubles=False,
    ),
    Backend(
        "cpp",
        "our C++ kernel, compiled when first used",
        ("cpu",),
        _from("cpu_kernel"),
        unasked=True,
    ),
    Backend("plain", "PyTorch's grid_sample", (), lambda: plain_ms_deform_attn, unasked=True),
    Backend(
        "torch_ms_deform_attn",
        "the package's compiled operator",
        ("cpu", "cuda", "mps"),
        _from("peers", "load_torch_ms_deform_attn"),
    ),
    Backend(
        "transformers",
        "the hub's kernel",
        ("cuda",),
        _from("peers", "load_transformers"),
    ),
    Backend(
        "original",
        "the extension MultiScaleDeformableAttention",
        ("cuda",),
        _from("peers", "load_original"),
    ),
)


def choose(device: str, dtype: torch.dtype) -> tuple[Backend, Function]:
    """The backend, and its function, for tensors of a device type ("cpu", "cuda") and a dtype.

    Raises:
        DependencyError: the one that was asked for doesn't exist or can't run.
    """
    name = _name_of_choice(device, dtype, _asked)
    return find(name), _functions[name]


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Ask for a backend in all threads, as `with use_backend("plain"):`; None: don't ask.

    Raises:
        DependencyError: there is none of that name.
    """
    global _asked
    if name is not None:
        find(name)
    before, _asked = _asked, name
    try:
        yield
    finally:
        _asked = before


def find(name: str) -> Backend:
    """The backend of a name. DependencyError where there is none."""
    for backend in BACKENDS:
        if backend.name == name:
            return backend
    names = ", ".join(backend.name for backend in BACKENDS)
    raise DependencyError(f"there is no backend {name} for deformable attention: give {names}")


def obstacle(backend: Backend, device: str, dtype: torch.dtype) -> str | None:
    """Why a backend can't run on tensors of this device and dtype; None where it can."""
    return _unfit(backend, device, dtype) or _load(backend)


def _unfit(backend: Backend, device: str, dtype: torch.dtype) -> str | None:
    if backend.devices and device not in backend.devices:
        return f"it runs on {' and '.join(backend.devices)} only"
    if dtype == torch.float64 and not backend.doubles:
        return "it doesn't know float64"
    return None


@cache
def _load(backend: Backend) -> str | None:
    """Load a backend's function, once; why it can't be, or None."""
    try:
        _functions[backend.name] = backend.load()
    except DependencyError as error:
        return str(error)
    return None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _name_of_choice(device: str, dtype: torch.dtype, asked: str | None) -> str:
    """A constant to torch.compile, which traces neither the environment nor the loading."""
    name, why, slower = decide(device, dtype, asked or os.environ.get(VARIABLE) or None)
    level = logging.WARNING if slower else logging.INFO
    _log_once(level, f"deformable attention on {device}: {name} ({why})")
    return name


_log_once = cache(log.log)


@cache
def decide(device: str, dtype: torch.dtype, asked: str | None) -> tuple[str, str, bool]:
    """The name of the backend that runs, why, and whether a faster one can't.

    Raises:
        DependencyError: the one that was asked for doesn't exist or can't run.
    """
    if asked is None:
        name, passed_over = _best(device, dtype)
        why = "; ".join(passed_over) or f"the first choice on {device}"
        return name, why, name == "plain" and bool(passed_over)
    reason = obstacle(find(asked), device, dtype)
    if reason:
        raise DependencyError(
            f"deformable attention by {asked}, which was asked for, can't run on {device}: {reason}"
        )
    return asked, "asked for", False


def _best(device: str, dtype: torch.dtype) -> tuple[str, list[str]]:
    """The first backend that can run, and why those before it on this device can't."""
    passed_over: list[str] = []
    for backend in BACKENDS:
        if not backend.unasked or _unfit(backend, device, dtype):
            continue
        reason = _load(backend)
        if reason is None:
            return backend.name, passed_over
        passed_over.append(f"{backend.name}: {reason}")
    raise AssertionError("plain PyTorch runs everywhere")
