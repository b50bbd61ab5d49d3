"""Read untrusted pickles as tensors, numbers, strings and plain containers only.

A pickle is a program that reaches code only by naming a global. The unpickler below accepts a
closed list of names. For each it returns a function of this module that builds plain data, in a
wrapper that can be called and nothing else. It rejects any other name before it is looked up.
"""

import io
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from torch import Tensor

from mpdiag.errors import CheckpointError, UnsafeCheckpointError

_ZIP, _NUMBERS = b"PK\x03\x04", "biufc"  # numpy kinds: bool, int, unsigned, float, complex


def read_pickle(file: Path) -> Any:
    """Return the contents of a file of `torch.save` or `pickle.dump`; arrays become tensors.

    Both formats of `torch.save` are supported.

    Raises:
        UnsafeCheckpointError: the file names a global that is not allowed, or holds a program.
        CheckpointError: the file is truncated or has another format.
    """
    try:
        with warnings.catch_warnings(), file.open("rb") as stream:
            warnings.simplefilter("ignore")  # torch's notes on old formats
            return _to_plain_data(_read(stream), {})
    except _NotAllowed as error:
        raise UnsafeCheckpointError(
            f"{file}: refused, because reading it would run code or build objects ({error}); ask "
            "its author for a file of tensors only"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise CheckpointError(
            f"{file}: truncated, or not a checkpoint ({type(error).__name__}); download or copy it "
            "again"
        ) from None


class _NotAllowed(Exception):
    """A pickle requested something that is not allowed; the message names it."""


def _read(stream: BinaryIO) -> Any:
    start = stream.read(len(_ZIP))
    stream.seek(0)
    if start == _ZIP:
        with zipfile.ZipFile(stream) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise _NotAllowed("a TorchScript program")
        stream.seek(0)
        return _torch_load(stream)
    content = _Unpickler(stream, encoding="latin1").load()
    if content == torch.serialization.MAGIC_NUMBER:  # torch.save before version 1.6
        stream.seek(0)
        return _torch_load(stream)
    return content


def _torch_load(stream: BinaryIO) -> Any:
    """Read storages by torch, and all pickles in them by `_Unpickler`."""
    if tarfile.is_tarfile(stream):
        raise _NotAllowed("a tar archive of torch 0.1")
    stream.seek(0)
    return torch.load(
        stream, map_location="cpu", pickle_module=_PICKLE, weights_only=False, encoding="latin1"
    )


class _AllowedGlobal:
    """A global that a pickle may call. It has no attributes that a pickle could set."""

    __slots__ = ("_build",)
    _build: Callable[..., Any]

    def __init__(self, build: Callable[..., Any]) -> None:
        object.__setattr__(self, "_build", build)

    def __call__(self, *arguments: Any) -> Any:
        return self._build(*arguments)

    def __setstate__(self, state: object) -> NoReturn:
        raise _NotAllowed("a state for a function")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise _NotAllowed("a state for a function")


class _Dict(dict[Any, Any]):
    """Replaces OrderedDict and Counter; ignores their attributes (torch's `_metadata`)."""

    def __setstate__(self, state: object) -> None:
        pass


class _DType:
    """Replaces numpy.dtype; allows numbers only."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in _NUMBERS or self.dtype.fields:
            raise _NotAllowed(f"a numpy array of {self.dtype}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Read numpy's (version, byte order, subarray, names, fields, ...)."""
        _, order, *structure = state[:5]
        if any(part is not None for part in structure):
            raise _NotAllowed("a structured numpy array")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)

    def numbers(self, raw: bytes | str) -> "np.ndarray[Any, Any]":
        """Return a copy of the raw bytes as numbers in native byte order."""
        if not isinstance(raw, bytes | bytearray | str):
            raise _NotAllowed("a numpy array of objects")
        data = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
        return np.frombuffer(data, self.dtype).astype(self.dtype.newbyteorder("="))


class _Array:
    """Replaces numpy.ndarray; its state fills it."""

    def __init__(self, *_: object) -> None:
        self.values: np.ndarray[Any, Any] = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Read numpy's (version, shape, dtype, is Fortran order, raw bytes)."""
        shape, dtype, fortran, raw = state[-4:]
        self.fill(raw, dtype, shape, "F" if fortran else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: Any) -> "_Array":
        if not isinstance(dtype, _DType):
            raise _NotAllowed("a numpy array of an unknown type")
        self.values = dtype.numbers(raw).reshape(shape, order=order)
        return self


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any, *_: object) -> _Array:
    return _Array().fill(raw, dtype, shape, order)


def _scalar(dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, _DType):
        raise _NotAllowed("a numpy number of an unknown type")
    return dtype.numbers(raw)[0].item()


def _no_bytes() -> bytes:
    return b""


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise _NotAllowed(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


def _storage(raw: bytes) -> Any:
    """Read a storage that a plain pickle holds as the bytes of a file."""
    return _read(io.BytesIO(raw))


def _ndarray(*_: object) -> NoReturn:
    raise _NotAllowed("numpy.ndarray called as a function")


_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _Dict,
    "collections.Counter": _Dict,
    "builtins.set": set,
    "builtins.bytes": _no_bytes,  # empty bytes in old protocols; others use _codecs.encode
    "builtins.complex": complex,
    "_codecs.encode": _encode,
    "numpy.dtype": _DType,
    "numpy.ndarray": _ndarray,
    "torch.Size": tuple,
    "torch.device": torch.device,
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch.storage._load_from_bytes": _storage,
}
for _module in ("numpy.core", "numpy._core"):  # before and after numpy 2
    _BUILDERS[f"{_module}.multiarray._reconstruct"] = _Array
    _BUILDERS[f"{_module}.multiarray.scalar"] = _scalar
    _BUILDERS[f"{_module}.numeric._frombuffer"] = _from_buffer
_GLOBALS = {name: _AllowedGlobal(build) for name, build in _BUILDERS.items()}
_OLD_MODULES = {"__builtin__": "builtins"}  # Python 2


class _Unpickler(pickle.Unpickler):
    """Unpickler of both formats; torch derives a subclass from it that reads storages."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{_OLD_MODULES.get(module, module)}.{name}"
        if full in _GLOBALS:
            return _GLOBALS[full]
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        raise _NotAllowed(full)


def _load(stream: BinaryIO, **options: Any) -> Any:
    return _Unpickler(stream, **options).load()


_PICKLE = ModuleType("plain_data_pickle")  # torch.load uses it instead of the pickle module
_PICKLE.Unpickler = _Unpickler  # type: ignore[attr-defined]
_PICKLE.load = _load  # type: ignore[attr-defined]


def _to_plain_data(value: Any, done: dict[int, Any]) -> Any:
    """Return a copy with tensors and dicts for the replacements; reject all but plain data."""
    if value is None or isinstance(
        value, bool | int | float | complex | str | bytes | torch.dtype | torch.device
    ):
        return value
    if id(value) not in done:
        done[id(value)] = _convert(value, done)
    return done[id(value)]


def _convert(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, _Array):
        return torch.from_numpy(value.values)
    if isinstance(value, Mapping):
        return {
            _to_plain_data(key, done): _to_plain_data(item, done) for key, item in value.items()
        }
    if isinstance(value, list | tuple | set):
        kind = next(kind for kind in (list, tuple, set) if isinstance(value, kind))
        return kind(_to_plain_data(item, done) for item in value)
    raise _NotAllowed(f"an object of {type(value).__name__.lstrip('_')}")
