"""Read untrusted pickles as tensors, numbers, strings and plain containers only.

A pickle is a program for a stack machine. The machine below has only the operations that build
plain data, and calls only the functions of `pickle_globals`. Every operation is charged to a budget
that depends on the size of the file, so that a small file cannot take unbounded memory or time.
"""

import io
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from mpdiag.checkpoints.pickle_globals import (
    BUILDERS,
    STORAGES,
    ArrayBuilder,
    Discarded,
    DType,
    NotAllowed,
    checked_keys,
    key_value_pairs,
)
from mpdiag.errors import CheckpointError, UnsafeCheckpointError
from mpdiag.printable import printable
from mpdiag.untrusted import MAX_DEPTH, open_regular

_ZIP, _LEGACY = b"PK\x03\x04", 0x1950A86A20F9469CFC6C  # torch.save since, and before, version 1.6
_MAX_OPERATIONS = _MAX_VALUES = 2**19
_ITEM_BYTES = 64  # approximate memory of an item of a container


def read_pickle(file: Path) -> Any:
    """Return the contents of a file of `torch.save` or `pickle.dump`; arrays become tensors.

    Both formats of `torch.save` are supported.

    Raises:
        UnsafeCheckpointError: the file names a global that is not allowed, or holds a program.
        CheckpointError: the file can't be opened, is truncated, has another format, or expands to
            many times its size.
    """
    try:
        stream = open_regular(file)
    except OSError as error:
        raise CheckpointError(f"{file}: can't be read ({error.strerror}); give a file") from None
    try:
        with stream:
            return _PlainData().convert(_read(stream, _Budget(_size(stream))))
    except NotAllowed as error:
        raise UnsafeCheckpointError(
            f"{file}: refused, because reading it would run code or build objects "
            f"({printable(error, 200)}); ask its author for a file of tensors only, "
            "or load the model with its own library and give it as mpdiag.CustomModel"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        reason = f"{type(error).__name__}: {printable(error, 200)}"
        raise CheckpointError(
            f"{file}: truncated, or not a checkpoint ({reason}); download or copy it again"
        ) from None


class _Budget:
    """Memory and operations that the pickles of a file of `size` bytes may use."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.num_bytes, self.operations = 8 * size + 2**24, _MAX_OPERATIONS

    def spend(self, num_bytes: int) -> None:
        self.num_bytes -= num_bytes
        if self.num_bytes < 0:
            raise ValueError("it would expand to more than 8 times its size")

    def spend_on(self, values: Any) -> None:
        """Charge the size of the values of a tuple, which a function may copy."""
        for value in values if type(values) is tuple else (values,):
            if isinstance(value, str | bytes | bytearray):
                self.spend(len(value))
            elif isinstance(value, list | tuple | set | dict):
                self.spend(_ITEM_BYTES * len(value))

    def count_operation(self) -> None:
        self.operations -= 1
        if self.operations < 0:
            raise ValueError(f"a pickle of more than {_MAX_OPERATIONS:,} operations")


class _BoundedStream:
    """Stream for `pickletools`, which would allocate whatever length a pickle states."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.stream, self.size, self.readline = stream, size, stream.readline

    def read(self, count: int) -> bytes:
        return self.stream.read(min(count, self.size))


def _size(stream: BinaryIO) -> int:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    return size


def _read(stream: BinaryIO, budget: _Budget) -> Any:
    start = stream.read(len(_ZIP))
    stream.seek(0)
    if start == _ZIP:
        return _read_archive(stream, budget)
    content = _Machine(budget).run(stream)
    return _read_legacy(stream, budget) if type(content) is int and content == _LEGACY else content


def _read_archive(stream: BinaryIO, budget: _Budget) -> Any:
    """Read a zip archive of `torch.save`, which does not compress its records."""
    size = _size(stream)
    with zipfile.ZipFile(stream) as archive:
        records = {info.filename: info for info in archive.infolist()}
    if any(name.endswith("/constants.pkl") for name in records):
        raise NotAllowed("a TorchScript program")
    if any(x.compress_type or x.compress_size != x.file_size for x in records.values()):
        raise ValueError("an archive of compressed records")
    if sum(info.file_size for info in records.values()) > size:
        raise ValueError("an archive of records that exceed the file")
    root = next((x.removesuffix("data.pkl") for x in records if x.endswith("/data.pkl")), None)
    if root is None:
        raise ValueError("an archive without data.pkl")

    def read(name: str) -> bytearray:
        info = records[name]
        stream.seek(info.header_offset + 26)  # lengths of name and extra field, in the header
        stream.seek(sum(np.frombuffer(stream.read(4), "<u2").tolist()), io.SEEK_CUR)
        return _read_bytes(stream, info.file_size)

    if f"{root}byteorder" in records and read(f"{root}byteorder") != b"little":
        raise ValueError("a file of a big-endian computer")
    storages: dict[str, bytearray] = {}

    def storage(dtype: torch.dtype, key: str, _: int) -> Tensor:
        if key not in storages:
            storages[key] = read(f"{root}data/{key}")
        return _as_tensor(storages[key], dtype)

    return _Machine(budget, storage).run(io.BytesIO(read(f"{root}data.pkl")))


def _read_legacy(stream: BinaryIO, budget: _Budget) -> Any:
    """Read the format of `torch.save` before version 1.6, after its magic number.

    It consists of pickles (version, system, content, keys of storages), and the storages.
    """
    storages: dict[str, bytearray] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> Tensor:
        if key not in storages:
            budget.spend(count * dtype.itemsize)
            storages[key] = bytearray(count * dtype.itemsize)
        return _as_tensor(storages[key], dtype)

    _, system = _Machine(budget).run(stream), _Machine(budget).run(stream)
    if not system["little_endian"]:
        raise ValueError("a file of a big-endian computer")
    content = _Machine(budget, storage).run(stream)
    for key in _Machine(budget).run(stream):
        stream.seek(8, io.SEEK_CUR)  # the number of elements
        storages[key][:] = _read_bytes(stream, len(storages[key]))
    return content


def _read_bytes(stream: BinaryIO, count: int) -> bytearray:
    data = bytearray(count)
    if stream.readinto(data) != count:  # type: ignore[attr-defined]
        raise EOFError("a record ends early")
    return data


def _as_tensor(data: bytearray, dtype: torch.dtype) -> Tensor:
    count = len(data) // dtype.itemsize
    if not count:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, count=count)


@dataclass(frozen=True, slots=True)
class _Global:
    """A global that the pickle named, and the function that replaces it."""

    name: str
    build: Callable[..., Any]


_PUSH = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BYTEARRAY8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_FROM_MARK: dict[str, Callable[[Any], Any]] = {}  # filled below
_IGNORED = {"PROTO", "FRAME", "STOP"}


class _Machine:
    """Stack machine for one pickle.

    Args:
        budget: what the pickle may use.
        storage: returns the 1-D tensor of a storage, given its dtype, key and number of elements.
    """

    def __init__(
        self,
        budget: _Budget,
        storage: Callable[[torch.dtype, str, int], Tensor] | None = None,
    ) -> None:
        self.budget, self.storage = budget, storage
        self.stack: list[Any] = []
        self.below_marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: BinaryIO) -> Any:
        """Execute the pickle at the position of `stream`, and return its value."""
        bounded: Any = _BoundedStream(stream, self.budget.size)
        for opcode, argument, _ in pickletools.genops(bounded):
            self.budget.count_operation()
            self._execute(opcode.name, argument)
        return self.stack.pop()

    def _execute(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _PUSH:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[argument])
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[name])))
        elif name == "POP":
            stack.pop()
        elif name == "MARK":
            self.below_marks.append(stack)
            self.stack = []
        elif name in _FROM_MARK:
            items, self.stack = stack, self.below_marks.pop()
            self.stack.append(_FROM_MARK[name](items))
        elif name in ("APPENDS", "SETITEMS", "ADDITEMS"):
            self.stack = self.below_marks.pop()
            _extend(self.stack[-1], stack)
        elif name in ("APPEND", "SETITEM"):
            items = self._pop(1 if name == "APPEND" else 2)
            _extend(stack[-1], items)
        elif name == "GLOBAL":
            stack.append(self._find(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(self._find(*self._pop(2)))
        elif name == "REDUCE":
            stack.append(self._call(*self._pop(2)))
        elif name == "NEWOBJ":
            stack.append(self._new_object(*self._pop(2)))
        elif name == "BUILD":
            self._set_state(stack[-2], stack.pop())
        elif name == "BINPERSID":
            stack.append(self._load_storage(stack.pop()))
        elif name not in _IGNORED:
            raise NotAllowed(f"the pickle operation {name}")

    def _pop(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        del self.stack[-count:]
        if len(items) < count:
            raise ValueError("a pickle with too few values")
        return items

    def _find(self, module: Any, name: Any) -> Any:
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"  # Python 2's name
        if full == "torch.storage._load_from_bytes":
            return _Global(full, lambda raw: _read(io.BytesIO(raw), self.budget))
        if full in BUILDERS:
            return _Global(full, BUILDERS[full])
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        raise NotAllowed(full)

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Global):
            raise NotAllowed(f"a call of a value of type {type(function).__name__}")
        # A small tensor in a file can have any number of elements, and iterating over it makes a
        # tensor of each.
        first_is_tensor = function.name.startswith("torch._utils._rebuild_")
        if type(arguments) is not tuple or any(
            isinstance(value, Tensor) for value in arguments[first_is_tensor:]
        ):
            raise ValueError(f"a tensor as an argument of {function.name}")
        self.budget.spend_on(arguments)
        value = function.build(*arguments)
        if isinstance(value, Tensor):
            self.budget.spend(value.numel() * value.element_size())
        return value

    def _new_object(self, kind: Any, arguments: Any) -> Any:
        if not isinstance(kind, _Global) or kind.build is not Discarded:
            raise NotAllowed("the pickle operation NEWOBJ")
        return Discarded()

    def _set_state(self, target: Any, state: Any) -> None:
        self.budget.spend_on(state)
        if isinstance(target, DType | ArrayBuilder):
            target.set_state(state)
        elif isinstance(target, Discarded):
            return
        elif isinstance(target, _Global):
            raise NotAllowed("a state for a function")
        elif not isinstance(target, dict):  # attributes of a dict, such as torch's `_metadata`
            raise NotAllowed(f"a state for a value of type {type(target).__name__}")

    def _load_storage(self, saved: Any) -> Tensor:
        if type(saved) is not tuple:
            raise ValueError("a storage of an unknown format")
        kind, dtype, key, _, count, *view = saved
        if self.storage is None or kind != "storage" or not isinstance(dtype, torch.dtype):
            raise NotAllowed("an object of another file")
        if not isinstance(key, str) or any(part is not None for part in view):
            raise ValueError("a storage of an unknown format")
        return self.storage(dtype, key, count)


def _extend(target: Any, items: list[Any]) -> None:
    """Add items to the list, dict or set that a pickle builds."""
    if type(target) is list:
        target.extend(items)
    elif type(target) is dict:
        target.update(key_value_pairs(items, len(target)))
    elif type(target) is set:
        target.update(checked_keys(items, len(target)))
    else:
        raise NotAllowed(f"items of a value of type {type(target).__name__}")


_FROM_MARK |= {
    "TUPLE": tuple,
    "LIST": list,
    "DICT": lambda items: dict(key_value_pairs(items)),
    "FROZENSET": lambda items: set(checked_keys(items)),
}


class _PlainData:
    """Copy of a value of `_Machine`, without the replacements, within limits."""

    def __init__(self) -> None:
        self.done: dict[int, tuple[Any, int]] = {}
        self.size = 0  # number of values, those of shared containers counted each time

    def convert(self, value: Any, depth: int = 0) -> Any:
        """Return a copy; reject all but plain data."""
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        before = self.size
        if value is None or isinstance(
            value, bool | int | float | complex | str | bytes | torch.dtype | torch.device
        ):
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError("an integer that exceeds 64 bits")
            if isinstance(value, str):
                value.encode()  # UnicodeEncodeError for a lone surrogate
                self.size += len(value) // _ITEM_BYTES
            self.size += 1
            converted = value
        elif id(value) in self.done:
            converted, size = self.done[id(value)]
            self.size += size
        else:
            converted = self._copy(value, depth + 1)
            self.size += 1
            self.done[id(value)] = converted, self.size - before
        if self.size > _MAX_VALUES:
            raise ValueError(f"more than {_MAX_VALUES:,} values, shared ones counted repeatedly")
        return converted

    def _copy(self, value: Any, depth: int) -> Any:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Discarded):
            return None
        if isinstance(value, ArrayBuilder):
            return torch.from_numpy(value.values)
        if isinstance(value, dict):
            return {
                self.convert(key, depth): self.convert(item, depth) for key, item in value.items()
            }
        if isinstance(value, list | tuple | set):
            return type(value)(self.convert(item, depth) for item in value)
        name = value.name if isinstance(value, _Global) else type(value).__name__.lstrip("_")
        raise NotAllowed(f"an object of {name}")
