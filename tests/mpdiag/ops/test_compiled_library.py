"""Compilation and caching of C++ libraries."""

import logging
from multiprocessing import get_context
from pathlib import Path

import pytest

from mpdiag.errors import DependencyError
from mpdiag.ops import compiled_library
from mpdiag.ops.compiled_library import cache_directory, load_library, untrusted_reason


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "answer.cpp"
    path.write_text('extern "C" int answer() { return 42; }')
    return path


def test_library_is_cached(source, monkeypatch) -> None:
    assert load_library(source).answer() == 42
    (library,) = cache_directory().iterdir()
    assert cache_directory().stat().st_mode & 0o777 == 0o700
    written = library.stat().st_mtime_ns
    monkeypatch.setenv("PATH", "")  # without a compiler
    assert load_library(source).answer() == 42
    assert library.stat().st_mtime_ns == written


def test_changed_source_is_compiled(source) -> None:
    load_library(source)
    source.write_text('extern "C" int answer() { return 43; }')
    assert load_library(source).answer() == 43
    assert len(list(cache_directory().glob("*.so"))) == 2


def answer_of(source: Path) -> int:
    answer: int = load_library(source).answer()
    return answer


def test_concurrent_processes(source) -> None:
    with get_context("fork").Pool(4) as pool:
        assert pool.map(answer_of, [source] * 4, chunksize=1) == [42] * 4
    assert len(list(cache_directory().iterdir())) == 1


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_cache_writable_by_others_is_not_used(source, cache, caplog, mode) -> None:
    load_library(source)
    directory = cache_directory()
    directory.chmod(mode)
    (library,) = directory.glob("*.so")
    library.unlink()  # this process has it loaded, so it must not be overwritten
    library.write_text("not trusted")
    caplog.set_level(logging.INFO)
    assert load_library(source).answer() == 42
    assert "writable by other users; compiled for this process only" in caplog.text
    assert library.read_text() == "not trusted"


def test_cache_in_a_directory_writable_by_others_is_not_used(cache) -> None:
    assert untrusted_reason(cache_directory()) is None
    cache.chmod(0o777)
    assert "writable by other users" in (untrusted_reason(cache_directory()) or "")
    cache.chmod(0o1777)  # as /tmp: only owners may replace entries
    assert untrusted_reason(cache_directory()) is None


def test_cache_of_another_user_is_not_used(cache, monkeypatch) -> None:
    untrusted_reason(cache_directory())
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    assert untrusted_reason(cache_directory()) is not None


def test_cache_that_cannot_be_created(source, cache) -> None:
    cache.write_text("a file")
    assert load_library(source).answer() == 42


def test_no_compiler(source, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DependencyError, match=r"there is no C\+\+ compiler"):
        load_library(source)
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(DependencyError, match="/nowhere/c"):
        load_library(source)


def test_compiler_error(source) -> None:
    source.write_text("int answer( {")
    with pytest.raises(DependencyError, match=r"failed: .*error"):
        load_library(source)
    assert not list(cache_directory().iterdir())


def test_broken_library_is_compiled_again(source, caplog) -> None:
    with get_context("fork").Pool(1) as pool:  # a library loaded in this process would stay loaded
        pool.map(answer_of, [source])
    (library,) = cache_directory().glob("*.so")
    library.unlink()
    library.write_text("not a library")
    assert load_library(source).answer() == 42
    assert "compiled again" in caplog.text


def test_other_systems(source, monkeypatch) -> None:
    monkeypatch.setattr(compiled_library.sys, "platform", "darwin")
    with pytest.raises(DependencyError, match="Linux"):
        load_library(source)
