"""Compiling, keeping and distrusting libraries; never loading what another user may have put."""

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


def test_compiled_once_and_kept(source, monkeypatch) -> None:
    assert load_library(source).answer() == 42
    (library,) = cache_directory().glob("*.so")
    assert cache_directory().stat().st_mode & 0o777 == 0o700
    written = library.stat().st_mtime_ns
    monkeypatch.setenv("PATH", "")  # no compiler any more
    assert load_library(source).answer() == 42
    assert library.stat().st_mtime_ns == written


def test_another_file_is_another_library(source) -> None:
    load_library(source)
    source.write_text('extern "C" int answer() { return 43; }')
    assert load_library(source).answer() == 43
    assert len(list(cache_directory().glob("*.so"))) == 2


def answer_of(source: Path) -> int:
    answer: int = load_library(source).answer()
    return answer


def test_processes_share_one_compilation(source) -> None:
    with get_context("fork").Pool(2) as pool:
        assert pool.map(answer_of, [source] * 2) == [42, 42]
    assert len(list(cache_directory().iterdir())) == 2  # the library and the lock


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_open_to_others_is_not_used(source, cache, caplog, mode) -> None:
    load_library(source)
    directory = cache_directory()
    directory.chmod(mode)
    (library,) = directory.glob("*.so")
    library.unlink()  # written in place, it would pull the loaded one from under this process
    library.write_text("a trap")
    caplog.set_level(logging.INFO)
    assert load_library(source).answer() == 42
    assert "open to other users, so it is compiled anew each time" in caplog.text
    assert library.read_text() == "a trap"


def test_a_folder_in_a_folder_that_anyone_may_change_is_not_used(cache) -> None:
    assert untrusted_reason(cache_directory()) is None
    cache.chmod(0o777)
    assert "can be written by anyone" in (untrusted_reason(cache_directory()) or "")
    cache.chmod(0o1777)  # as /tmp: nobody may replace another's folder
    assert untrusted_reason(cache_directory()) is None


def test_a_folder_of_another_user_is_not_used(cache, monkeypatch) -> None:
    untrusted_reason(cache_directory())
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    assert untrusted_reason(cache_directory()) is not None


def test_a_folder_that_cannot_be_made_is_not_used(source, cache) -> None:
    cache.write_text("a file")
    assert load_library(source).answer() == 42


def test_no_compiler(source, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DependencyError, match=r"there is no C\+\+ compiler"):
        load_library(source)
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(DependencyError, match="/nowhere/c"):
        load_library(source)


def test_a_compiler_that_fails_says_why(source) -> None:
    source.write_text("int answer( {")
    with pytest.raises(DependencyError, match=r"failed: .*error"):
        load_library(source)
    assert not list(cache_directory().glob("*.so"))


def test_a_library_that_is_broken(source) -> None:
    with get_context("fork").Pool(1) as pool:  # a library that this process loaded would stay
        pool.map(answer_of, [source])
    (library,) = cache_directory().glob("*.so")
    library.unlink()
    library.write_text("not a library")
    with pytest.raises(DependencyError, match="can't be loaded"):
        load_library(source)


def test_other_systems(source, monkeypatch) -> None:
    monkeypatch.setattr(compiled_library.sys, "platform", "darwin")
    with pytest.raises(DependencyError, match="Linux"):
        load_library(source)
