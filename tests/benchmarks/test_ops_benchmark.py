"""`mpdiag bench ops`."""

import json
from dataclasses import asdict

import pytest
import torch

from benchmarks.ops import bench_ops, encoder_problem, ops_table
from benchmarks.timing import time_interleaved
from mpdiag.errors import DependencyError


@pytest.fixture(autouse=True)
def small_copy(monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.timing.COPY_SIZE", 2**16)


def test_functions_run_in_turn() -> None:
    calls: list[str] = []
    functions = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    seconds = time_interleaved(functions, 2, torch.device("cpu"))
    assert calls == ["a", "b"] * 3
    assert list(seconds) == ["a", "b"]


def test_problem_has_the_sizes_of_the_pixel_decoder() -> None:
    problem = encoder_problem(800, 1333, 2, torch.bfloat16, torch.device("cpu"))
    assert problem.shapes == [(25, 42), (50, 84), (100, 168)]
    assert problem.value.shape == (2, 22050, 8, 32)
    assert problem.locations.shape == (2, 22050, 8, 3, 4, 2)
    torch.testing.assert_close(problem.weights.sum((-1, -2)), torch.ones(2, 22050, 8))
    cells = 2 * 22050
    value, locations, weights = 256 * 2 * cells, 192 * 4 * cells, 96 * 4 * cells
    assert problem.bytes(backward=False) == 2 * value + locations + weights
    assert problem.bytes(backward=True) == 5 * value + 3 * (locations + weights)


def test_all_backends_at_all_sizes(render) -> None:
    results = bench_ops([(32, 64), (64, 64)], device="cpu", repeats=1)
    keys = {(x.size, x.job, x.backend) for x in results.timings}
    sizes, jobs = ("32x64", "64x64"), ("forward", "forward + backward")
    assert {(s, j, b) for s in sizes for j in jobs for b in ("cpp", "plain")} <= keys
    assert "triton" in results.unavailable
    assert json.loads(json.dumps(asdict(results)))["timings"][0]["size"] == "32x64"
    text = render(ops_table(results), width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert "forward + backward" in text and "triton: it requires cuda" in text


def test_unavailable_device() -> None:
    with pytest.raises(DependencyError, match="--device tpu"):
        bench_ops([(32, 32)], device="tpu")


def test_failing_backend_does_not_stop_the_others(monkeypatch, render) -> None:
    def with_backend(name, run):
        def call() -> object:
            if name == "cpp":
                raise RuntimeError("illegal [access]")
            return run()

        return call

    monkeypatch.setattr("benchmarks.ops._with_backend", with_backend)
    results = bench_ops([(32, 32)], device="cpu", repeats=1)
    assert results.unavailable["cpp"] == "fails: RuntimeError: illegal [access]"
    assert "plain" in {timing.backend for timing in results.timings}
    assert "illegal [access]" in render(ops_table(results), width=100)
