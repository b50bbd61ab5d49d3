"""Read files from untrusted sources, within limits.

The functions raise `OSError` if a file cannot be read and `ValueError` if its content is invalid.
The text of a `ValueError` completes "FILE: cannot be read (...)"; the caller adds the fix.
"""

import errno
import gc
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from mpdiag.printable import printable

IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")
"""Formats that Pillow may detect in an image file.

Their decoders start no program and read no second image in the file, whose size would differ from
that of the header. EPS runs Ghostscript, and IPTC decodes an image of any format, EPS included.
"""

MAX_TEXT_BYTES = 64 << 20
MAX_YAML_BYTES = 256 << 10
MAX_YAML_NODES = 10_000
MAX_DEPTH = 64

_CONTAINERS = {dict, list}
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file for reading, without waiting for the writer of a named pipe.

    Raises:
        OSError: the file cannot be opened, or is a pipe, a device, a socket or a directory.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except ValueError as error:  # a null character or a lone surrogate
        raise OSError(errno.EINVAL, f"invalid path: {error}", str(path)) from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_bytes(path: Path | str, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: see `open_regular`.
        ValueError: the file is larger than `max_bytes`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise ValueError(f"larger than {max_bytes:,} bytes")
        return file.read(size)  # file.read(max_bytes) would allocate max_bytes


def read_text(path: Path | str, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the text of a regular file in UTF-8, without the mark that Windows puts before it.

    Raises:
        OSError, ValueError: see `read_bytes`. Invalid UTF-8 is a ValueError.
    """
    return read_bytes(path, max_bytes).decode("utf-8-sig")


def read_json(path: Path | str, max_bytes: int = MAX_TEXT_BYTES) -> Any:
    """Return the content of a JSON file; see `parse_json`.

    Raises:
        OSError: see `open_regular`.
        ValueError: the content is invalid, or beyond a limit.
    """
    data = read_bytes(path, max_bytes)
    return parse_json(data.decode(json.detect_encoding(data)))


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: the text is not JSON, is nested deeper than MAX_DEPTH, or contains an integer
            that exceeds 64 bits or a lone surrogate.
    """
    try:
        with _no_garbage_collection():
            value = json.loads(text, parse_int=_parse_integer)
            _check_depth(value)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError for a lone surrogate
    return value


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable the collector, which takes most of the time of parsing a large file."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_depth(value: Any) -> None:
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for node in level:
            items = node.values() if type(node) is dict else node
            if not _CONTAINERS.isdisjoint(map(type, items)):
                inner += [item for item in items if type(item) in _CONTAINERS]
        level = inner
    if level:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _parse_integer(text: str) -> int:
    if len(text) <= 20 and -(2**63) <= (value := int(text)) < 2**63:
        return value
    raise ValueError(f"the integer {printable(text, 40)} exceeds 64 bits")


class YamlLoader(yaml.SafeLoader):
    """SafeLoader that limits depth, integers, and the number of nodes with aliases expanded."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = self._nodes = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        is_alias, first = self.check_event(yaml.AliasEvent), self._nodes
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        self._nodes += not is_alias
        node = super().compose_node(parent, index)
        self._depth -= 1
        if not is_alias:
            self._sizes[id(node)] = self._nodes - first
        elif id(node) in self._sizes:
            self._nodes += self._sizes[id(node)]
        else:
            raise ValueError("an alias refers to a value that contains it")
        if self._nodes > MAX_YAML_NODES:
            raise ValueError(f"more than {MAX_YAML_NODES:,} values, with aliases expanded")
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag == "tag:yaml.org,2002:int" and len(node.value) > 80:
            raise ValueError(f"the integer {printable(node.value, 40)} exceeds 64 bits")
        value = super().construct_object(node, deep)
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise ValueError(f"the integer {printable(str(value), 40)} exceeds 64 bits")
        if isinstance(value, str):
            value.encode()  # UnicodeEncodeError for a lone surrogate
        return value


def read_yaml(source: Path | str, loader: type[YamlLoader] = YamlLoader) -> Any:
    """Return the content of a YAML file (a `Path`) or text (a `str`).

    Raises:
        OSError: see `open_regular`.
        ValueError: the content is not YAML, or beyond a limit of `YamlLoader`.
    """
    text = read_text(source, MAX_YAML_BYTES) if isinstance(source, Path) else source
    try:
        return yaml.load(text, loader)
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        # PyYAML raises the last four for a value that does not fit its tag.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(printable(reason, 300)) from None
