"""Functions that replace the globals of a pickle, and build plain data only.

They raise `NotAllowed` for a value that is not plain, and other errors for an invalid one.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

_NUMBERS = "biufc"  # numpy kinds: bool, int, unsigned, float, complex
_MAX_NUMBER_KEYS = 10_000  # of a container; the state of an optimizer has one per parameter
STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}


class NotAllowed(Exception):
    """A pickle requested something that is not allowed; the message names it."""


def key_value_pairs(items: list[Any], before: int = 0) -> Iterable[tuple[Any, Any]]:
    """Return pairs of alternating keys and values, with checked keys."""
    return zip(checked_keys(items[::2], before), items[1::2], strict=True)


def checked_keys(keys: Iterable[Any], before: int = 0) -> Iterator[Any]:
    """Yield the keys that a dict or set of `before` entries gets.

    A nested tuple can take forever to hash. Python's hashes of text are random, those of numbers
    are not: a file can choose many that collide, so that adding each takes longer than the last.
    """
    for position, key in enumerate(keys, before):
        if isinstance(key, int | float):
            if isinstance(key, int) and not -(2**63) <= key < 2**63:
                raise ValueError("a key that exceeds 64 bits")
            if position >= _MAX_NUMBER_KEYS:
                raise ValueError(f"a number as key after {_MAX_NUMBER_KEYS:,} others")
        elif key is not None and not isinstance(key, str | bytes | torch.dtype):
            raise ValueError(f"a key of type {type(key).__name__}")
        yield key


class DType:
    """Replaces numpy.dtype; allows numbers only."""

    def __init__(self, code: Any, align: bool = False, copy: bool = False) -> None:
        if not isinstance(code, str) or len(code) > 8:
            raise NotAllowed("a numpy array of an unknown type")
        self.dtype = np.dtype(code)
        if self.dtype.kind not in _NUMBERS or self.dtype.fields:
            raise NotAllowed(f"a numpy array of {self.dtype}")

    def set_state(self, state: tuple[Any, ...]) -> None:
        """Read numpy's (version, byte order, subarray, names, fields, ...)."""
        _, order, *structure = state[:5]
        if any(part is not None for part in structure):
            raise NotAllowed("a structured numpy array")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)

    def numbers(self, raw: Any) -> "np.ndarray[Any, Any]":
        """Return a copy of the raw bytes as numbers in native byte order."""
        if not isinstance(raw, bytes | bytearray | str):
            raise NotAllowed("a numpy array of objects")
        data = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
        return np.frombuffer(data, self.dtype).astype(self.dtype.newbyteorder("="))


class ArrayBuilder:
    """Replaces numpy.ndarray; its state fills it."""

    def __init__(self, *_: object) -> None:
        self.values: np.ndarray[Any, Any] = np.zeros(0)

    def set_state(self, state: tuple[Any, ...]) -> None:
        """Read numpy's (version, shape, dtype, is Fortran order, raw bytes)."""
        shape, dtype, fortran, raw = state[-4:]
        self.fill(raw, dtype, shape, "F" if fortran else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: Any) -> "ArrayBuilder":
        if not isinstance(dtype, DType):
            raise NotAllowed("a numpy array of an unknown type")
        self.values = dtype.numbers(raw).reshape(shape, order=order)
        return self


def _array_from_buffer(raw: Any, dtype: Any, shape: Any, order: Any, *_: object) -> ArrayBuilder:
    return ArrayBuilder().fill(raw, dtype, shape, order)


def _number(dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, DType):
        raise NotAllowed("a numpy number of an unknown type")
    return dtype.numbers(raw)[0].item()


def _mapping(items: Any = ()) -> dict[Any, Any]:
    pairs = list(items.items() if isinstance(items, Mapping) else items)
    if not all(isinstance(pair, list | tuple) for pair in pairs):
        raise ValueError("an entry that is not a pair of key and value")
    keys = checked_keys(key for key, _ in pairs)
    return dict(zip(keys, (value for _, value in pairs), strict=True))


def _set(items: Any = ()) -> set[Any]:
    return set(checked_keys(items))


def _no_bytes() -> bytes:
    return b""


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise NotAllowed(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: object) -> Tensor:
    """Return a view of a storage, within its bounds."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or (math.prod(size) and last >= storage.numel()):
        raise ValueError("a tensor that exceeds its storage")
    view: Tensor = storage.as_strided(size, stride, offset)
    return view


def _parameter(tensor: Tensor, *_: object) -> Tensor:
    return tensor


class Discarded:
    """Replaces an object of a training's log. Nothing of it is kept."""

    def __init__(self, *_: object) -> None: ...


def _attribute(owner: Any, name: Any) -> Discarded:
    """Replace getattr, by which a discarded object names its methods."""
    if not isinstance(owner, Discarded) and getattr(owner, "build", None) is not Discarded:
        raise NotAllowed("builtins.getattr")
    return Discarded()


def _ndarray(*_: object) -> NoReturn:
    raise NotAllowed("numpy.ndarray called as a function")


BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "builtins.set": _set,
    "builtins.bytes": _no_bytes,  # empty bytes in old protocols; others use _codecs.encode
    "builtins.complex": complex,
    "builtins.getattr": _attribute,
    "mmengine.logging.history_buffer.HistoryBuffer": Discarded,
    "_codecs.encode": _encode,
    "numpy.dtype": DType,
    "numpy.ndarray": _ndarray,
    "torch.Size": tuple,
    "torch.device": torch.device,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}
for _module in ("numpy.core", "numpy._core"):  # before and after numpy 2
    BUILDERS[f"{_module}.multiarray._reconstruct"] = ArrayBuilder
    BUILDERS[f"{_module}.multiarray.scalar"] = _number
    BUILDERS[f"{_module}.numeric._frombuffer"] = _array_from_buffer
