"""What `mpdiag bench ops` measures and shows; never how fast it is."""

import json
from io import StringIO

import pytest
import torch
from rich.console import Console

from benchmarks.ops import bench_ops, encoder_problem, ops_table
from benchmarks.timing import interleaved
from mpdiag.errors import DependencyError


@pytest.fixture(autouse=True)
def small_copy(monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.timing.COPIED", 2**16)


def test_functions_take_turns() -> None:
    calls: list[str] = []
    functions = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    seconds = interleaved(functions, 2, torch.device("cpu"))
    assert calls == ["a", "b"] * 3
    assert list(seconds) == ["a", "b"]


def test_the_problem_is_the_pixel_decoders() -> None:
    problem = encoder_problem(800, 1333, 2, torch.bfloat16, torch.device("cpu"))
    assert problem.shapes == [(25, 42), (50, 84), (100, 168)]
    assert problem.value.shape == (2, 22050, 8, 32)
    assert problem.locations.shape == (2, 22050, 8, 3, 4, 2)
    torch.testing.assert_close(problem.weights.sum((-1, -2)), torch.ones(2, 22050, 8))
    cells = 2 * 22050
    value, locations, weights = 256 * 2 * cells, 192 * 4 * cells, 96 * 4 * cells
    assert problem.bytes(backward=False) == 2 * value + locations + weights
    assert problem.bytes(backward=True) == 5 * value + 3 * (locations + weights)


def test_every_backend_at_every_size() -> None:
    found = bench_ops([(32, 64), (64, 64)], device="cpu", repeats=1)
    keys = {(x.size, x.job, x.backend) for x in found.timings}
    sizes, jobs = ("32x64", "64x64"), ("forward", "forward + backward")
    assert {(s, j, b) for s in sizes for j in jobs for b in ("cpp", "plain")} <= keys
    assert "triton" in found.absent
    assert json.loads(json.dumps(found.as_json()))["timings"][0]["size"] == "32x64"
    console = Console(width=100, file=StringIO())
    console.print(ops_table(found))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    assert "forward + backward" in text and "triton: it runs on cuda only" in text


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(DependencyError, match="--device tpu"):
        bench_ops([(32, 32)], device="tpu")
