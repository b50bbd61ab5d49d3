"""Deformable attention of other packages, and the reasons why it is not available."""

import sys
from types import SimpleNamespace

import pytest
import torch

from mpdiag.errors import DependencyError
from mpdiag.ops import backends, external_kernels, ms_deform_attn, use_backend
from mpdiag.ops.backends import BACKENDS, unavailable_reason


def test_reasons_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests have no GPU, so no backend for GPUs can be loaded."""
    monkeypatch.setattr(backends, "_load", backends._load.__wrapped__)  # without its cache
    for_gpus = [backend for backend in BACKENDS if backend.devices == ("cuda",)]
    assert len(for_gpus) == 4
    for backend in for_gpus:
        reason = unavailable_reason(backend, "cuda", torch.float32)
        assert reason and "\n" not in reason and len(reason) < 200


def test_torch_ms_deform_attn(make_problem) -> None:
    pytest.importorskip("torch_ms_deform_attn")
    problem = make_problem(8)
    with use_backend("torch_ms_deform_attn"):
        found = problem.run(ms_deform_attn, torch.float64)
    torch.testing.assert_close(found, problem.solve())


def test_original_extension(make_problem) -> None:
    """The functions of the extension get the arguments of its source code."""
    problem = make_problem(8)
    output, *grads = problem.solve()

    def check(value, shapes, starts, locations, weights) -> None:
        assert torch.equal(value, problem.value)
        assert shapes.tolist() == [list(shape) for shape in problem.shapes]
        assert starts.tolist() == [0, 12, 18]
        assert shapes.dtype == starts.dtype == torch.int64
        assert torch.equal(locations, problem.locations)
        assert torch.equal(weights, problem.weights)

    def ms_deform_attn_forward(*arguments):
        check(*arguments[:5])
        assert len(problem.value) % arguments[5] == 0
        return output

    def ms_deform_attn_backward(*arguments):
        check(*arguments[:5])
        assert torch.equal(arguments[5], problem.upstream)
        assert len(problem.value) % arguments[6] == 0
        return grads

    extension = SimpleNamespace(
        ms_deform_attn_forward=ms_deform_attn_forward,
        ms_deform_attn_backward=ms_deform_attn_backward,
    )
    function = external_kernels._of_extension("test_extension", extension)
    torch.testing.assert_close(problem.run(function, torch.float64), [output, *grads])


def test_cached_levels_of_an_inference_are_usable_in_training() -> None:
    arguments = ((2, 3), (4, 5)), torch.device("cpu")
    external_kernels._levels.cache_clear()
    with torch.inference_mode():
        external_kernels._levels(*arguments)
    assert not any(tensor.is_inference() for tensor in external_kernels._levels(*arguments))


def test_a_triton_that_cannot_set_up_its_driver_is_not_used(monkeypatch) -> None:
    """As without a C compiler: the next backend runs."""
    triton = pytest.importorskip("triton")

    def fail(driver: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC.")

    monkeypatch.setattr(type(triton.runtime.driver), "active", property(fail))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    from mpdiag.ops import triton_kernel

    message = r"^Triton cannot set up its driver \(Failed to find C compiler\.\)$"
    with pytest.raises(DependencyError, match=message):
        triton_kernel.load()


def test_deformops_names_the_supported_python_versions(monkeypatch) -> None:
    if sys.version_info[:2] in ((3, 12), (3, 13)):
        pytest.skip("this version is supported")
    with pytest.raises(DependencyError, match=r"Python 3\.12 or 3\.13, this is 3\.1"):
        external_kernels.load_deformops()
