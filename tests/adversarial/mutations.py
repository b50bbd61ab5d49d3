"""Seeded mutations of bytes and nested values, and the number that a run of the tests tries.

A run tries about 2,000. `MPDIAG_MUTATIONS=50000 pytest tests/adversarial -k mutated` tries about
50,000, with the same shares of the kinds. Try at least 6,000 before a release.
"""

import copy
import os
import random
from collections.abc import Iterable, Iterator
from typing import Any

from mpdiag.errors import MpdiagError

MUTATIONS = int(os.environ.get("MPDIAG_MUTATIONS", "2000"))

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 5, 7, 20, 30, 33, 0.5, -0.0, 1e308, float("nan"),
    float("inf"), 10**6, 2**24, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, -(2**63), 2**63, 10**40,
    60_000, 65_535, "", "1", "x", ".", "..", "/", "1.png", "../1.png", "/dev/zero", "/etc",
    "hf-hub:evil/model", "a\0b", "\ud800", "\x1b[2J", "\u202e", "9" * 400, "x" * 5000, "o" * 3000,
    "P" * 3000, "0" * 3000, [], [1], {}, {"a": 1}, [[]], [{}], {"": []}, [0] * 100, [None] * 6,
    ["1"] * 6, ["x"] * 40, [[0] * 6] * 50, [1e9] * 6, {"size": [20, 30], "counts": []},
    {"size": [20, 30], "counts": [600]}, {"size": [2**16] * 2, "counts": [2**32]},
]  # fmt: skip

PIECES = [
    b"", b"\0", b"\xff", b"\xff" * 8, b"\0" * 4, b"\xff\xff\xff\x7f", b'"', b"[", b"]" * 3,
    b"}", b"{" * 70, b"1e999", b"-", b"0", b"9" * 30, b"\\u", b"R}bQ", b"&a *a", b": ",
]  # fmt: skip


def seeds(count: int, share: int = 0, shares: int = 1) -> range:
    """Return the seeds of one of `shares` tests, which together try `count` of 6,000 mutations."""
    return range(share, round(count * MUTATIONS / 6000), shares)


def check_error(error: MpdiagError) -> None:
    """Assert that the message is one printable line of sane length."""
    assert str(error).isprintable() and len(str(error)) <= 1000
    assert "MemoryError" not in str(error)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with a few changed, inserted, removed or repeated, or cut."""
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        near = rng.choice((60, 4000, len(mutated)))
        start = rng.randrange(min(near, len(mutated)) + 1)
        if rng.random() < 0.3:
            start = len(mutated) - start
        end = start + rng.choice((0, 1, 4, 16, 30))
        kind = rng.randrange(5)
        if kind == 0 and start < len(mutated):
            mutated[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            mutated[start:end] = rng.randbytes(end - start)
        elif kind == 2:
            mutated[start:start] = mutated[start:end]
        else:
            mutated[start:end] = rng.choice(PIECES)
    return bytes(mutated[: rng.randrange(len(mutated) + 1)] if rng.random() < 0.1 else mutated)


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value within nested dicts and lists."""
    yield path
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield from nodes(item, (*path, key))


def mutate_tree(tree: Any, rng: random.Random) -> Any:
    """Return a copy of nested dicts and lists with one to three values changed."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        paths = list(nodes(tree))
        if len(paths) == 1:
            break
        parent, key = _find(tree, rng.choice(paths[1:]))
        kind = rng.choice(("replace", "replace", "replace", "scale", "remove", "rename", "move"))
        if kind == "remove":
            del parent[key]
        elif kind == "move":
            holder = [tree]
            inner, name = _find(holder, (0, *rng.choice(paths)))
            parent[key] = copy.deepcopy(inner[name])
        elif kind == "rename" and isinstance(parent, dict):
            other = rng.choice(paths)[-1:] or ("x",)
            parent[str(other[0])] = parent.pop(key)
        elif kind == "rename":
            parent += [copy.deepcopy(parent[key])] * rng.choice((1, 5))
        elif kind == "scale" and isinstance(parent[key], int | float):
            parent[key] *= rng.choice((-1, 2, 1000, 10**9))
        else:
            parent[key] = copy.deepcopy(rng.choice(VALUES))
    return tree


def _find(tree: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
    """Return the container of the value at a path, and the value's key in it."""
    for step in path[:-1]:
        tree = tree[step]
    return tree, path[-1]
