"""Atomic writes."""

from pathlib import Path

import pytest

from mpdiag.errors import OutputError
from mpdiag.store.files import append, atomic_write, replace_file


def test_an_error_keeps_the_old_file_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    replace_file(path, b"old")
    with pytest.raises(ValueError, match="half"), atomic_write(path) as stream:
        stream.write(b"ne")
        raise ValueError("half")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "a.json"
    for write in (replace_file, append):
        with pytest.raises(OutputError) as caught:
            write(path, b"")
        assert str(caught.value).startswith(f"{path}: cannot be written (No such file")


def test_a_directory_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OutputError, match=r"a\.json: cannot be written \(Is a directory"):
        replace_file(tmp_path / "a.json", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_errors_of_other_files_are_not_changed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a") as stream:
        stream.write((tmp_path / "other").read_bytes())
    with pytest.raises(RuntimeError, match="model"), atomic_write(tmp_path / "a"):
        raise RuntimeError("model")
    assert not any(tmp_path.iterdir())


def test_append(tmp_path: Path) -> None:
    for data in (b"first\n", b"second\n"):
        append(tmp_path / "log", data)
    assert (tmp_path / "log").read_bytes() == b"first\nsecond\n"


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A directory that somebody else made may have links to files elsewhere."""
    other, path = tmp_path / "other", tmp_path / "a.json"
    other.write_bytes(b"other")
    (tmp_path / "a.json.tmp").symlink_to(other)
    replace_file(path, b"new")
    (tmp_path / "log").symlink_to(other)
    with pytest.raises(OutputError, match="log: cannot be written"):
        append(tmp_path / "log", b"line")
    assert other.read_bytes() == b"other" and path.read_bytes() == b"new"
    assert not path.is_symlink() and not (tmp_path / "a.json.tmp").is_symlink()
