"""Other packages' deformable attention behind our arguments, and why they can't run here."""

import sys
from types import SimpleNamespace

import pytest
import torch

from mpdiag.errors import DependencyError
from mpdiag.ops import ms_deform_attn, peers, use_backend
from mpdiag.ops.backends import BACKENDS, unavailable_reason


def test_each_says_in_a_sentence_why_it_cannot_run() -> None:
    for backend in BACKENDS:
        reason = unavailable_reason(backend, backend.devices[0] if backend.devices else "cpu", torch.float32)
        assert reason is None or (reason and "\n" not in reason and len(reason) < 200)


def test_torch_ms_deform_attn(make_problem) -> None:
    pytest.importorskip("torch_ms_deform_attn")
    problem = make_problem(8)
    with use_backend("torch_ms_deform_attn"):
        found = problem.run(ms_deform_attn, torch.float64)
    torch.testing.assert_close(found, problem.solve())


def test_the_original_extension(make_problem) -> None:
    """Its functions get their arguments as the original's sources name them."""
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
    function = peers._of_extension("test_extension", extension)
    torch.testing.assert_close(problem.run(function, torch.float64), [output, *grads])


def test_deformops_says_for_which_python_it_is_made(monkeypatch) -> None:
    if sys.version_info[:2] in ((3, 12), (3, 13)):
        pytest.skip("it is made for this one")
    with pytest.raises(DependencyError, match=r"Python 3\.12 and 3\.13, this is 3\.1"):
        peers.load_deformops()
