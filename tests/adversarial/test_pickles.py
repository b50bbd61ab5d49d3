"""Hostile pickles and archives: no code runs, and neither memory nor time is unbounded."""

import io
import os
import pickle
import random
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpdiag.checkpoints.unpickling import read_pickle
from mpdiag.errors import CheckpointError

from .mutations import check_error, mutate_bytes, seeds

pytestmark = pytest.mark.usefixtures("one_gib")

TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(t"
DTYPE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4I00\nI01\ntR"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def refused(path: Path, content: bytes, limit: float = 5.0) -> str:
    """Check that a file is refused in time and within memory, and return the message."""
    path.write_bytes(content)
    started = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        read_pickle(path)
    assert time.process_time() - started < limit
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 600
    assert "MemoryError" not in message and "allocate" not in message
    return message


def archive(pickled: bytes, records: dict[str, bytes] | None = None, **options: Any) -> bytes:
    """Return a file of `torch.save` with the given pickle and storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as out:
        out.writestr("x/data.pkl", pickled)
        for name, content in (records or {"0": bytes(64)}).items():
            out.writestr(f"x/data/{name}", content)
    return file.getvalue()


def storage(
    key: str = "0", count: bytes = b"K\x10", kind: bytes = b"ctorch\nFloatStorage\n"
) -> bytes:
    return b"(" + text("storage") + kind + text(key) + text("cpu") + count + b"tQ"


def save(content: Any, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def tensor(size: bytes, stride: bytes, offset: bytes = b"K\x00", **options: Any) -> bytes:
    return b"\x80\x02" + TENSOR + b"(" + storage(**options) + offset + size + stride + b"\x89}tR."


NESTED = b")q\x00" + b"0h\x00h\x00\x86q\x00" * 200  # a tuple that takes forever to hash
SAVED = save(torch.zeros(2**20), zipped=False)
HUGE = b"\x8a\x09" + b"\xff" * 8 + b"\x00"  # 2**64 - 1
EXPANDED = tensor(b"J\x00\xca\x9a\x3bK\x04\x86", b"K\x00K\x00\x86")  # (10**9, 4), strides 0

LONG = tensor(b"J\x00\x00\x40\x00\x85", b"K\x00\x85")  # 2**22 elements, strides 0


def long(value: int) -> bytes:
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


# Python's hash of all of these is 0, so a dict compares each with all before it.
COLLIDING = b"".join(long(k * (2**61 - 1)) + b"N" for k in range(1, 40_001))
# Numbers of 64 bits can be chosen such that each tries many slots of a dict.
NUMBERS = [b"J" + struct.pack("<I", k) for k in range(10_001)]

BOMBS: dict[str, bytes] = {
    "colliding keys": b"\x80\x02}(" + COLLIDING + b"u.",
    "many numbers as keys": b"\x80\x02}(" + b"".join(k + b"N" for k in NUMBERS) + b"u.",
    "many numbers one by one": b"\x80\x02}" + b"".join(k + b"Ns" for k in NUMBERS) + b".",
    "many numbers in an old dict": b"(" + b"".join(k + b"N" for k in NUMBERS) + b"d.",
    "many numbers in a set": b"\x80\x04\x8f(" + b"".join(NUMBERS) + b"\x90.",
    "many numbers in a frozenset": b"\x80\x04(" + b"".join(NUMBERS) + b"\x91.",
    "many numbers in a called set": b"\x80\x02c__builtin__\nset\n(" + b"".join(NUMBERS)
    + b"l\x85R.",
    "many numbers in a Counter": b"\x80\x02ccollections\nCounter\n("
    + b"".join(k + b"N\x86" for k in NUMBERS) + b"l\x85R.",
    "complex keys": b"\x80\x02}c__builtin__\ncomplex\nK\x01K\x02\x86RNs.",
    "nested tuple as key": b"\x80\x02}" + NESTED + b"K\x01s.",
    "nested tuple in a set": b"\x80\x04\x8f(" + NESTED + b"\x90.",
    "nested tuple in a frozenset": b"\x80\x04(" + NESTED + b"\x91.",
    "nested tuple as value": b"\x80\x02}" + text("a") + NESTED + b"s.",
    "nested tuple as type": b"\x80\x02cnumpy\ndtype\n" + NESTED + b"\x85R.",
    "nested tuple as Counter": b"\x80\x02ccollections\nCounter\n](" + NESTED + b"K\x01\x86e\x85R.",
    "deep lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep tuples": b"\x80\x02)" + b"\x85" * 100_000 + b".",
    "deep dicts": b"\x80\x02" + b"}K\x01" * 100_000 + b"N" + b"s" * 100_000 + b".",
    "list of itself": b"\x80\x02]q\x00h\x00a.",
    "many operations": b"\x80\x02(" + b"}" * 3_000_000 + b"l.",
    "many sets": b"\x80\x04(" + b"\x8f" * 2_000_000 + b"l.",
    "repeated storage": b"\x80\x03B" + struct.pack("<I", len(SAVED)) + SAVED
    + b"q\x000(" + b"ctorch.storage\n_load_from_bytes\nh\x00\x85R" * 2000 + b"l.",
    "repeated text": b"\x80\x02" + text("x" * 2**20) + b"q\x00(" + b"h\x00" * 10_000 + b"l.",
    "repeated encoding": b"\x80\x02" + text("x" * 2**20) + b"q\x00" + text("latin1")
    + b"q\x01(" + b"c_codecs\nencode\nh\x00h\x01\x86R" * 5000 + b"l.",
    "repeated array": b"\x80\x02B" + struct.pack("<I", 2**20) + bytes(2**20) + b"q\x000" + DTYPE
    + b"q\x010(" + (ARRAY + b"R(K\x01J\x00\x00\x04\x00\x85h\x01I00\nh\x00tb") * 3000 + b"l.",
    "repeated set": b"\x80\x02(" + b"".join(b"J" + struct.pack("<I", k) for k in range(100_000))
    + b"lq\x00(" + b"c__builtin__\nset\nh\x00\x85R" * 5000 + b"l.",
    "long length": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.",
    "long text length": b"\x80\x04\x8d" + struct.pack("<Q", 2**33) + b"x.",
    "long integer": b"I" + b"9" * 6000 + b"\n.",
    "long binary integer": b"\x80\x02\x8b" + struct.pack("<I", 2**20) + b"\x7f" * 2**20 + b".",
    "65 bits": b"\x80\x02" + HUGE + b".",
    "lone surrogate": b"\x80\x02X\x03\x00\x00\x00\xed\xa0\x80.",
    "long type": b"\x80\x02cnumpy\ndtype\n" + text("f4," * 10**6) + b"\x85R.",
    "expanded tensor": archive(EXPANDED),
    "expanded many times": archive(
        b"\x80\x02(" + tensor(b"J\x00\x00\x10\x00\x85", b"K\x00\x85")[2:-1] * 400 + b"l."
    ),
    **{
        f"large tensor as the items of {name}": archive(
            b"\x80\x02c" + name.replace(".", "\n").encode() + b"\n" + LONG[2:-1] + b"\x85R."
        )
        for name in ("torch.Size", "__builtin__.set", "collections.OrderedDict")
    },
    "large tensor as arguments": archive(b"\x80\x02ctorch\ndevice\n" + LONG[2:-1] + b"R."),
    "large tensor as a pair": archive(
        b"\x80\x02ccollections\nOrderedDict\n]" + LONG[2:-1] + b"a\x85R."
    ),
    "tensor beyond its storage": archive(tensor(b"K\x11\x85", b"K\x01\x85")),
    "negative stride": archive(tensor(b"K\x02\x85", b"J\xff\xff\xff\xff\x85")),
    "negative offset": archive(
        tensor(b"K\x02\x85", b"K\x01\x85", offset=b"J\xff\xff\xff\xff")
    ),
    "negative size": archive(tensor(b"J\xff\xff\xff\xff\x85", b"K\x01\x85")),
    "overflowing size": archive(tensor(HUGE + b"\x85", HUGE + b"\x85")),
    "no storage": archive(tensor(b"K\x01\x85", b"K\x01\x85", key="7")),
    "path as storage": archive(tensor(b"K\x01\x85", b"K\x01\x85", key="../../etc/passwd")),
    "no archive of torch": archive(b"N.").replace(b"data.pkl", b"data.pkx"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path: Path, name: str) -> None:
    refused(tmp_path / "model.pth", BOMBS[name])


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_compressed_records(tmp_path: Path, compression: int) -> None:
    packed = archive(b"\x80\x02N.", {"0": bytes(2**26)}, compression=compression)
    refused(tmp_path / "model.pth", packed)


@pytest.mark.parametrize(
    "content",
    [
        b"".join([b"\x80\x02}", *(b"r" + struct.pack("<I", 2**k - 1) for k in (31, 32)), b"."]),
        b"}p9999999999999999\n.",
        b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"}.",
    ],
)
def test_large_indices_of_the_memo_take_no_memory(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pkl").write_bytes(content)
    assert read_pickle(tmp_path / "model.pkl") == {}


def test_records_that_overlap_or_exceed_the_file(tmp_path: Path) -> None:
    whole = archive(b"\x80\x02N.", {"0": bytes(1000)})
    directory = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 1)
    enlarged = bytearray(whole)
    for position in (directory + 20, directory + 24):  # compressed and original size
        enlarged[position : position + 4] = struct.pack("<I", 2**31)
    assert "exceed the file" in refused(tmp_path / "model.pth", bytes(enlarged))
    entry = whole[directory : whole.index(b"PK\x05\x06")]
    copies = b"".join(entry.replace(b"data/0", b"data/%c" % k) for k in range(65, 91))
    end = bytearray(whole[whole.index(b"PK\x05\x06") :])
    count = whole.index(b"PK\x05\x06") - whole.index(b"PK\x01\x02") + len(copies)
    end[8:16] = struct.pack("<HHI", 28, 28, count)
    overlapping = whole[: whole.index(b"PK\x05\x06")] + copies + bytes(end)
    assert "exceed the file" in refused(tmp_path / "model.pth", overlapping)


def test_counts_of_the_old_format(tmp_path: Path) -> None:
    whole = save({"a": torch.ones(3)}, zipped=False)
    position = whole.index(b"cpu") + 3
    position = whole.index(b"K\x03", position)
    for count in (
        b"J\xff\xff\xff\x7f",
        HUGE,
        b"J\xff\xff\xff\xff",
        b"G@\x08\x00\x00\x00\x00\x00\x00",
    ):
        refused(tmp_path / "model.pth", whole[:position] + count + whole[position + 2 :])


class Call:
    """An object whose unpickling calls `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02cos\nsystem\n" + text("touch ran") + b"\x85R.",
        b"\x80\x02(ios\nsystem\n.",
        b"(S'touch ran'\nios\nsystem\n.",
        b"\x80\x02(cos\nsystem\n" + text("touch ran") + b"o.",
        b"\x80\x02cos\nsystem\n" + text("touch ran") + b"\x85\x81.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch ran\x85R.",
        b"\x80\x04\x8c\x05torch\x8c\x08hub.load\x93)R.",
        b"\x80\x02ctorch\nfloat32.__class__\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02" + TENSOR + b"}" + text("__defaults__") + b"K\x01sb.",
        b"\x80\x02ctorch\nSize\n" + TENSOR + b"\x85R.",
        b"\x80\x02ctorch\ndevice\n" + text("cpu") + b"\x85R" + TENSOR + b"\x85R.",
        b"\x80\x02ctorch\nfloat32\n)R.",
        b"\x80\x02]}b.",
        b"\x80\x02Ptouch ran\n.",
        b"\x80\x02" + text("file") + b"Q.",
        b"\x80\x02}}" + text("__class__") + b"K\x01sb" + TENSOR + b"\x86.",
    ],
)  # fmt: skip
def test_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (program, archive(program)):
        refused(tmp_path / "model.pth", content)
    assert os.listdir(tmp_path) == ["model.pth"]


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.pth")
    for path in (tmp_path / "model.pth", tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match="can't be read"):
            read_pickle(path)


def writers() -> list[bytes]:
    content = {
        "model": {"a.weight": torch.arange(12.0).reshape(3, 4)[:, 1:], "b": torch.ones(2).half()},
        "arrays": [np.arange(3), np.float64(1.5), (None, True, {"x": b"y"})],
        "iteration": 3,
    }
    files = [pickle.dumps(content, protocol=protocol) for protocol in range(6)]
    return [*files, save(content), save(content, zipped=False)]


@pytest.mark.parametrize("index", range(8))
def test_mutated_pickles(tmp_path: Path, index: int) -> None:
    path, valid = tmp_path / "model.pth", writers()[index]
    for seed in seeds(250):
        path.write_bytes(mutate_bytes(valid, random.Random(seed)))
        started = time.process_time()
        try:
            read_pickle(path)
        except CheckpointError as error:
            check_error(error)
        assert time.process_time() - started < 5
    assert os.listdir(tmp_path) == ["model.pth"]
