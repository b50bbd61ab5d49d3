"""Selection of the backend, its log messages and errors."""

import logging

import pytest
import torch

from mpdiag.errors import DependencyError
from mpdiag.ops import backends, ms_deform_attn, use_backend
from mpdiag.ops.backends import VARIABLE, get_backend, resolve_backend, select_backend


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Clear requests, caches and logged messages."""
    monkeypatch.delenv(VARIABLE, raising=False)
    resolve_backend.cache_clear()
    backends._log_once.cache_clear()
    caplog.set_level(logging.INFO)
    yield
    resolve_backend.cache_clear()
    backends._load.cache_clear()


def test_selection_is_logged_once(caplog) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        assert select_backend("cpu", dtype)[0].name == "cpp"
    messages = [record for record in caplog.records if "deformable attention on" in record.message]
    assert [record.message for record in messages] == [
        "deformable attention on cpu: cpp (the default on cpu)"
    ]


def test_pytorch_on_other_devices(caplog) -> None:
    assert select_backend("mps", torch.float32)[0].name == "plain"
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_request(monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, "plain")
    assert select_backend("cpu", torch.float32)[0].name == "plain"
    with use_backend("cpp"):  # overrides the environment
        assert select_backend("cpu", torch.float32)[0].name == "cpp"
        with use_backend(None):
            assert select_backend("cpu", torch.float32)[0].name == "plain"
    assert select_backend("cpu", torch.float32)[0].name == "plain"


def test_unknown_name(monkeypatch) -> None:
    with (
        pytest.raises(DependencyError, match=r"no backend fast .*cpp.* plain"),
        use_backend("fast"),
    ):
        pass
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(DependencyError, match="no backend fast"):
        select_backend("cpu", torch.float32)


def test_requested_backend_cannot_run() -> None:
    with use_backend("cpp"), pytest.raises(DependencyError, match="on cuda: it requires cpu"):
        select_backend("cuda", torch.float32)


def test_fallback_without_a_compiler_logs_a_warning(make_problem, monkeypatch, caplog) -> None:
    problem = make_problem(8)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere/to/be/found")
    backends._load.cache_clear()
    found = problem.run(ms_deform_attn, torch.float64)
    torch.testing.assert_close(found[0], problem.solve()[0])
    warning = caplog.records[-1]
    assert warning.levelname == "WARNING"
    assert "cpu: plain (cpp: there is no C++ compiler" in warning.message
    with use_backend("cpp"), pytest.raises(DependencyError, match=r"no C\+\+ compiler"):
        select_backend("cpu", torch.float32)


def test_backend_names_are_unique() -> None:
    assert all(get_backend(backend.name) is backend for backend in backends.BACKENDS)
