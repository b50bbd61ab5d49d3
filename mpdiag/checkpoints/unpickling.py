"""Pickles of strangers read as tensors, numbers, strings and plain containers, and nothing else.

A pickle is a program. The only way in which it reaches code is by naming a global, so the unpickler
below knows a closed list of names and gives for each a function of ours that builds plain data, in
a wrapper that can be called and nothing else; any other name is refused before it is looked up.
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
    """What a file of `torch.save` (either format) or `pickle.dump` holds; arrays become tensors.

    Raises:
        UnsafeCheckpointError: it names a global that builds something else, or holds a program.
        CheckpointError: truncated, or in no such format.
    """
    try:
        with warnings.catch_warnings(), file.open("rb") as stream:
            warnings.simplefilter("ignore")  # torch's notes on old formats
            return _plain(_read(stream), {})
    except _Refused as error:
        raise UnsafeCheckpointError(
            f"{file}: refused, since reading it would run code or build objects ({error}); ask its "
            "author for a file of tensors alone"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise CheckpointError(
            f"{file}: truncated, or no checkpoint at all ({type(error).__name__}); fetch or copy "
            "it again"
        ) from None


class _Refused(Exception):
    """A pickle asked for what is not admitted; the message names it."""


def _read(stream: BinaryIO) -> Any:
    start = stream.read(len(_ZIP))
    stream.seek(0)
    if start == _ZIP:
        with zipfile.ZipFile(stream) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise _Refused("a TorchScript program")
        stream.seek(0)
        return _torch_load(stream)
    content = _Unpickler(stream, encoding="latin1").load()
    if content == torch.serialization.MAGIC_NUMBER:  # torch.save before version 1.6
        stream.seek(0)
        return _torch_load(stream)
    return content


def _torch_load(stream: BinaryIO) -> Any:
    """Storages by torch, all pickles in them by our unpickler."""
    if tarfile.is_tarfile(stream):
        raise _Refused("a tar archive of torch 0.1")
    stream.seek(0)
    return torch.load(
        stream, map_location="cpu", pickle_module=_PICKLE, weights_only=False, encoding="latin1"
    )


class _Admitted:
    """A global that a pickle may call; it has no attributes that a pickle could set."""

    __slots__ = ("_build",)
    _build: Callable[..., Any]

    def __init__(self, build: Callable[..., Any]) -> None:
        object.__setattr__(self, "_build", build)

    def __call__(self, *arguments: Any) -> Any:
        return self._build(*arguments)

    def __setstate__(self, state: object) -> NoReturn:
        raise _Refused("a state for a function")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise _Refused("a state for a function")


class _Dict(dict[Any, Any]):
    """In place of OrderedDict and Counter; attributes (torch's `_metadata`) are passed over."""

    def __setstate__(self, state: object) -> None:
        pass


class _DType:
    """In place of numpy.dtype: numbers alone."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in _NUMBERS or self.dtype.fields:
            raise _Refused(f"a numpy array of {self.dtype}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """(version, byte order, subarray, names, fields, ...) as numpy pickles it."""
        _, order, *structure = state[:5]
        if any(part is not None for part in structure):
            raise _Refused("a structured numpy array")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)

    def numbers(self, raw: bytes | str) -> "np.ndarray[Any, Any]":
        """A copy of the raw bytes as numbers in this machine's byte order."""
        if not isinstance(raw, bytes | bytearray | str):
            raise _Refused("a numpy array of objects")
        data = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
        return np.frombuffer(data, self.dtype).astype(self.dtype.newbyteorder("="))


class _Array:
    """In place of numpy.ndarray: filled by its state."""

    def __init__(self, *_: object) -> None:
        self.values: np.ndarray[Any, Any] = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """(version, shape, dtype, in Fortran's order?, raw bytes) as numpy pickles it."""
        shape, dtype, fortran, raw = state[-4:]
        self.fill(raw, dtype, shape, "F" if fortran else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: Any) -> "_Array":
        if not isinstance(dtype, _DType):
            raise _Refused("a numpy array of an unknown type")
        self.values = dtype.numbers(raw).reshape(shape, order=order)
        return self


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any, *_: object) -> _Array:
    return _Array().fill(raw, dtype, shape, order)


def _scalar(dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, _DType):
        raise _Refused("a numpy number of an unknown type")
    return dtype.numbers(raw)[0].item()


def _no_bytes() -> bytes:
    return b""


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


def _storage(raw: bytes) -> Any:
    """A storage that a plain pickle holds as the bytes of a file of its own."""
    return _read(io.BytesIO(raw))


def _marker(*_: object) -> NoReturn:
    raise _Refused("numpy.ndarray called as a function")


_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _Dict,
    "collections.Counter": _Dict,
    "builtins.set": set,
    "builtins.bytes": _no_bytes,  # how old protocols write empty ones; others as _codecs.encode
    "builtins.complex": complex,
    "_codecs.encode": _encode,
    "numpy.dtype": _DType,
    "numpy.ndarray": _marker,
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
_GLOBALS = {name: _Admitted(build) for name, build in _BUILDERS.items()}
_OLD_MODULES = {"__builtin__": "builtins"}  # Python 2's


class _Unpickler(pickle.Unpickler):
    """The unpickler of both formats; torch adds storages to it by a subclass of its own."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{_OLD_MODULES.get(module, module)}.{name}"
        if full in _GLOBALS:
            return _GLOBALS[full]
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        raise _Refused(full)


def _load(stream: BinaryIO, **options: Any) -> Any:
    return _Unpickler(stream, **options).load()


_PICKLE = ModuleType("pickle_of_plain_data")  # what torch.load takes in place of Python's pickle
_PICKLE.Unpickler = _Unpickler  # type: ignore[attr-defined]
_PICKLE.load = _load  # type: ignore[attr-defined]


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """A copy in which stand-ins are tensors and dicts; refuses what is still no plain data."""
    if value is None or isinstance(
        value, bool | int | float | complex | str | bytes | torch.dtype | torch.device
    ):
        return value
    if id(value) not in done:
        done[id(value)] = _converted(value, done)
    return done[id(value)]


def _converted(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, _Array):
        return torch.from_numpy(value.values)
    if isinstance(value, Mapping):
        return {_plain(key, done): _plain(item, done) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        kind = next(kind for kind in (list, tuple, set) if isinstance(value, kind))
        return kind(_plain(item, done) for item in value)
    raise _Refused(f"an object of {type(value).__name__.lstrip('_')}")
