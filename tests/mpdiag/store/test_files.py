"""Files that are there in full or not at all."""

from pathlib import Path

import pytest

from mpdiag.store.files import atomic_write, replace_file


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    replace_file(path, b"old")
    with pytest.raises(ValueError, match="half"), atomic_write(path) as stream:
        stream.write(b"ne")
        raise ValueError("half")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_error_of_a_place_that_takes_no_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "a.json"
    with pytest.raises(FileNotFoundError) as caught:
        replace_file(path, b"")
    assert caught.value.filename == str(path)
