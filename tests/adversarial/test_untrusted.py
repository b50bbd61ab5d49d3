"""Limits of `mpdiag.untrusted`."""

import json
import os
import time
from pathlib import Path

import pytest

from mpdiag.printable import printable
from mpdiag.untrusted import (
    MAX_DEPTH,
    open_regular,
    parse_json,
    read_bytes,
    read_json,
    read_text,
    read_yaml,
)

YAML_BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
YAML_MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 30)
)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"content")
    paths = [tmp_path / "pipe", tmp_path, "/dev/zero", tmp_path / "loop", "a\0b", "\ud800"]
    for path in [*paths, tmp_path / "missing", "x" * 5000]:
        with pytest.raises(OSError) as caught:
            open_regular(path)
        assert caught.value.filename == str(path) or caught.value.filename == path
        assert caught.value.strerror
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"content"


def test_size_and_encoding_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"12345")
    assert read_text(path, 5) == "12345"
    with pytest.raises(ValueError, match="larger than 4 bytes"):
        read_bytes(path, 4)
    path.write_bytes(b"\xff\xfe\x00")
    for read in (read_text, read_json, read_yaml):
        with pytest.raises(ValueError):
            read(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        '{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1),
        "9223372036854775808",
        "1" * 5000,
        '["\\ud800"]',
        '{"\\uDFFF": 1}',
    ],
)
def test_invalid_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(ValueError) as caught:
        read_json(tmp_path / "file.json")
    assert len(str(caught.value)) < 200


def test_valid_json(tmp_path: Path) -> None:
    nested = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    pair = '"\\ud83d\\ude00 \\\\ud800"'
    assert parse_json(f"[-9223372036854775808, 1e3, {pair}]") == [-(2**63), 1000.0, "😀 \\ud800"]
    assert json.dumps(parse_json(nested)) == nested
    (tmp_path / "bom.json").write_text("{}", encoding="utf-8-sig")
    assert read_json(tmp_path / "bom.json") == {}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[" * 200_000,
        "a: " * 3,
        YAML_BOMB,
        YAML_MERGE_BOMB,
        "&a [*a]",
        "a: &a {b: *a}",
        "- " * 100 + "x",
        "[" + "a, " * 20_000 + "]",
        "0x_",
        "2001-13-45",
        "1" * 5000,
        "1" * 30,
        ":".join(["1"] * 50_000).replace(":", ":1", 1),
        "!!int ''",
        "!!bool x",
        "!!timestamp x",
        "!!float x",
        "!!python/object/apply:os.system [x]",
        "{[a]: 1}",
        '"\\ud800"',
        "a\x1b",
        "%",
    ],
)
def test_invalid_yaml(text: str, tmp_path: Path) -> None:
    started = time.process_time()
    (tmp_path / "file.yaml").write_text(text)
    for source in (text, tmp_path / "file.yaml"):
        with pytest.raises(ValueError) as caught:
            read_yaml(source)
        assert caught.value.args
    assert time.process_time() - started < 5


def test_valid_yaml() -> None:
    text = "base: &base {a: 1, b: [x, 2]}\nchild: {<<: *base, b: 1e-3}\nsame: *base"
    assert read_yaml(text) == {
        "base": {"a": 1, "b": ["x", 2]},
        "child": {"a": 1, "b": "1e-3"},
        "same": {"a": 1, "b": ["x", 2]},
    }


def test_printable() -> None:
    assert printable("größe 图 👩‍👩‍👧 a/b.json") == "größe 图 👩‍👩‍👧 a/b.json"
    assert printable("a\nb\tc") == "a b c"
    assert printable("\x1b[2J\0\x9b1m\r\x7f") == "\\x1b[2J\\x00\\x9b1m\\r\\x7f"
    assert printable("\u202e\u2066\u200b\u2028\ud800") == "\\u202e\\u2066\\u200b\\u2028\\ud800"
    long = printable("start" + "x" * 10**6 + "end", 50)
    assert len(long) == 50 and long.startswith("start") and long.endswith("end")
    assert len(printable("\x1b" * 10**6, 50)) == 50
