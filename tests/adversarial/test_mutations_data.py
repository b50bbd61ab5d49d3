"""Seeded mutations of COCO files and images: each data set loads, or raises an MpdiagError.

`MPDIAG_MUTATIONS=50000 pytest tests/adversarial/test_mutations_data.py` tries more of them.
"""

import copy
import io
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mpdiag.data import load_dataset
from mpdiag.data.check import check_dataset
from mpdiag.data.image_files import read_integer_map, read_rgb, read_size
from mpdiag.errors import MpdiagError

Write = Callable[..., Path]
MUTATIONS = int(os.environ.get("MPDIAG_MUTATIONS", "1500"))
SHARES = 6

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 5, 20, 30, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    2**24, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, -(2**63), 2**63, 10**40, 60_000, 65_535,
    "", "1", "x", ".", "..", "/", "1.png", "../1.png", "/dev/zero", "a\0b", "\ud800", "\x1b[2J",
    "\u202e", "x" * 5000, "o" * 3000, "P" * 3000, "0" * 3000, [], {}, [[]], [{}], {"": []},
    [0] * 100, [None] * 6, ["1"] * 6, [[0] * 6] * 50, [1e9] * 6, {"size": [20, 30], "counts": []},
    {"size": [20, 30], "counts": [600]}, {"size": [2**16] * 2, "counts": [2**32]},
]  # fmt: skip
TEXTS = [b"", b"\0", b"\xff", b'"', b"[", b"]" * 3, b"{" * 70, b"1e999", b"-", b"9" * 30, b"\\u"]


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value within a JSON value."""
    yield path
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield from nodes(item, (*path, key))


def mutate_json(content: Any, rng: random.Random) -> Any:
    """Return a copy with one to three values replaced, removed or moved."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        *path, key = rng.choice([path for path in nodes(content) if path] or [(None,)])
        parent = content
        for step in path:
            parent = parent[step]
        if key is None or not isinstance(parent, dict | list):
            break
        action = rng.choice(("replace", "replace", "replace", "remove", "repeat", "move"))
        if action == "remove":
            del parent[key]
        elif action == "repeat" and isinstance(parent, list):
            parent += [copy.deepcopy(parent[key])] * rng.choice((1, 5))
        elif action == "move":
            source: Any = content
            for step in rng.choice(list(nodes(content))):
                source = source[step]
            parent[key] = copy.deepcopy(source)
        else:
            parent[key] = copy.deepcopy(rng.choice(VALUES))
    return content


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with a few of them changed, removed or inserted."""
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        start = rng.randrange(len(data) + 1) if rng.random() < 0.6 else rng.randrange(60)
        end = start + rng.choice((0, 1, 4, 30))
        new = rng.choice((bytes([rng.randrange(256)]), rng.randbytes(4), rng.choice(TEXTS)))
        data = data[:start] + new + data[end:]
    return data[: rng.randrange(len(data) + 1)] if rng.random() < 0.2 else data


def try_data_set(path: Path, task: str | None, rng: random.Random) -> None:
    """Load all samples, or check the data set; an MpdiagError has a printable message."""
    started = time.perf_counter()
    try:
        if rng.random() < 0.5:
            data = load_dataset(str(path), task=task)
            [data[index] for index in range(len(data))]
        else:
            check_dataset(str(path), task=task)
    except MpdiagError as error:
        assert str(error).isprintable() and len(str(error)) <= 1000
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("share", range(SHARES))
def test_mutated_annotation_files(instances: Write, panoptic: Write, share: int) -> None:
    paths = [instances(), panoptic()]
    originals = [(path.read_bytes(), json.loads(path.read_text())) for path in paths]
    for seed in range(share, MUTATIONS * 3 // 5, SHARES):
        rng = random.Random(seed)
        kind = rng.randrange(2)
        data, content = originals[kind]
        if rng.random() < 0.25:
            data = mutate_bytes(data, rng)
        else:
            data = json.dumps(mutate_json(content, rng)).encode()
        paths[kind].write_bytes(data)
        try_data_set(paths[kind], rng.choice((None, "instance", "panoptic", "semantic")), rng)


def images() -> list[bytes]:
    """Return an image of each format, some with EXIF, and maps of several depths."""
    rng = np.random.default_rng(0)
    color = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM"):
        stream = io.BytesIO()
        color.save(stream, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}))
        found.append(stream.getvalue())
    for dtype in (np.uint8, np.uint16, np.int32):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 200, (20, 30)).astype(dtype)).save(stream, "TIFF")
        found.append(stream.getvalue())
    return found


@pytest.mark.parametrize("share", range(SHARES))
def test_mutated_images(instances: Write, panoptic: Write, share: int) -> None:
    paths = [instances(), panoptic()]
    files = [paths[0].parent / "1.png", paths[0].parent / "panoptic_val/1.png"]
    originals = images()
    for seed in range(share, MUTATIONS * 2 // 5, SHARES):
        rng = random.Random(seed)
        kind = rng.randrange(2)
        files[kind].write_bytes(mutate_bytes(rng.choice(originals), rng))
        for read in (read_size, read_rgb, read_integer_map):
            try:
                read(files[kind])
            except MpdiagError as error:
                assert str(error).isprintable()
        try_data_set(paths[kind], None, rng)
