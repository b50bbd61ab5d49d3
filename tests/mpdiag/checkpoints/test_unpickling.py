"""Pickles of every writer: numbers and plain containers are read, and no code runs."""

import collections
import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpdiag.checkpoints.unpickling import read_pickle
from mpdiag.errors import CheckpointError, UnsafeCheckpointError

NUMBERS = {
    "array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">i4"),
    "half": np.array([1.5, -2.0], dtype=np.float16),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 4), dtype=np.int64),
    "one": np.array(7),
}


class Call:
    """An object whose unpickling calls `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def write(path: Path, content: Any, writer: str) -> Path:
    if writer == "torch":
        torch.save(content, path)
    elif writer == "old torch":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(content, protocol=int(writer)))
    return path


WRITERS = ["torch", "old torch", "0", "2", "4", "5"]


@pytest.mark.parametrize("writer", WRITERS)
def test_arrays_and_numbers(tmp_path: Path, writer: str) -> None:
    content = {**NUMBERS, "loss": np.float64(0.25), "step": np.int64(3), "ok": np.bool_(True)}
    found = read_pickle(write(tmp_path / "x", content, writer))
    for name, array in NUMBERS.items():
        assert str(found[name].dtype) == f"torch.{array.dtype.newbyteorder('=').name}"
        assert found[name].shape == array.shape
        assert found[name].tolist() == array.tolist()
    assert [found[key] for key in ("loss", "step", "ok")] == [0.25, 3, True]


@pytest.mark.parametrize("writer", WRITERS)
def test_tensors_in_containers(tmp_path: Path, writer: str) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    ordered = collections.OrderedDict(a=base[:, 1:3], b=torch.nn.Parameter(base[0]))
    ordered._metadata = {"": {"version": 1}}  # torch's state dicts have it
    content = {
        "model": ordered,
        "half": base.to(torch.bfloat16),
        "plain": [1, (2.5, None, "x"), {3}, b"raw", True, 1 + 2j],
        "milestones": collections.Counter([3, 3, 5]),
        "size": base.shape,
        "dtype": torch.float16,
    }
    found = read_pickle(write(tmp_path / "x", content, writer))
    assert torch.equal(found["model"]["a"], base[:, 1:3])
    assert torch.equal(found["model"]["b"], base[0])
    assert not found["model"]["b"].requires_grad
    assert torch.equal(found["half"], content["half"])
    assert found["plain"] == content["plain"]
    assert found["milestones"] == {3: 2, 5: 1}
    assert (found["size"], found["dtype"]) == ((3, 4), torch.float16)
    assert {type(found), type(found["model"])} == {dict}


def test_optimizer_and_scheduler(tmp_path: Path) -> None:
    """detectron2 saves both, and the metrics of its hooks as numpy numbers."""
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "model": layer.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5]).state_dict(),
        "iteration": 9,
        "trainer": {"best": np.float64(41.5), "grad_scaler": {"scale": 65536.0}},
    }
    found = read_pickle(write(tmp_path / "model_0000009.pth", content, "torch"))
    assert found["trainer"] == {"best": 41.5, "grad_scaler": {"scale": 65536.0}}
    for name, moment in content["optimizer"]["state"][0].items():
        assert torch.equal(found["optimizer"]["state"][0][name], moment)
    assert found["scheduler"]["milestones"] == {2: 1, 5: 1}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    "harmful, named",
    [
        (Call(os.system, "touch ran"), r"(posix|nt)\.system"),
        (Call(eval, "open('ran', 'w')"), "eval"),
        (Call(exec, "open('ran', 'w')"), "exec"),
        (Call(__import__, "os"), "__import__"),
        (Call(open, "ran", "w"), r"(io|_io)\.open"),
        (Call(torch.load, "ran"), r"torch\.serialization\.load"),
        (Call(torch.hub.load, "ran", "x"), r"torch\.hub\.load"),
        (Path("here"), "pathlib"),
        (torch.nn.Linear(1, 1), r"torch\.nn\.modules|copy_reg"),
        (collections.defaultdict(list), "defaultdict"),
        (np.array([{}, "text"], dtype=object), "object"),
        (np.array(["text"]), "U4"),
        (np.zeros(1, dtype=[("a", "f4"), ("b", "O")]), "numpy"),
        (np.random.RandomState(0), "numpy"),
        (collections.OrderedDict, r"collections\.OrderedDict"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_else_is_built_or_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str, harmful: Any, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "model.pth", {"model": {"a": [torch.ones(1), (harmful,)]}}, writer)
    with pytest.raises(UnsafeCheckpointError, match=rf"model\.pth: refused.*\(.*({named})"):
        read_pickle(path)
    assert not Path("ran").exists()


def test_a_torch_file_inside_a_pickle_is_checked_too(tmp_path: Path) -> None:
    """torch.storage._load_from_bytes would load it without any check."""
    inner = io.BytesIO()
    torch.save({"x": Call(os.system, "touch ran")}, inner)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(Call(torch.storage._load_from_bytes, inner.getvalue())))
    with pytest.raises(UnsafeCheckpointError, match=r"system"):
        read_pickle(path)


@pytest.mark.parametrize("target", ["ctorch._utils\n_rebuild_tensor_v2\n", "cnumpy\ndtype\n"])
def test_allowed_functions_can_not_be_modified(tmp_path: Path, target: str) -> None:
    """BUILD sets attributes, such as a function's defaults, of the object on the stack."""
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x02" + target.encode() + b"N}X\x0c\x00\x00\x00__defaults__K\x01s\x86b.")
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(UnsafeCheckpointError, match="state for a function"):
        read_pickle(path)
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


def test_programs_in_other_archives_are_rejected(tmp_path: Path) -> None:
    scripted = tmp_path / "scripted.pth"
    with pytest.warns(FutureWarning):
        torch.jit.script(torch.nn.Linear(1, 1)).save(scripted)
    with pytest.raises(UnsafeCheckpointError, match="TorchScript"):
        read_pickle(scripted)
    archive = tmp_path / "old.pth"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(CheckpointError, match=r"old\.pth"):
        read_pickle(archive)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_truncated_file_is_reported(tmp_path: Path, writer: str) -> None:
    path = write(tmp_path / "model.pth", {"a": torch.ones(500), "b": np.ones(500)}, writer)
    whole = path.read_bytes()
    for share in (0.0, 0.3, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError, match=r"model\.pth: truncated"):
            read_pickle(path)


def test_a_recursive_list_is_rejected(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(CheckpointError, match="nested deeper"):
        read_pickle(write(tmp_path / "model.pkl", endless, "4"))
