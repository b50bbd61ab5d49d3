"""Attention in a run directory: round trip, and errors of invalid values."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mpdiag import rle
from mpdiag.errors import RunError
from mpdiag.store import Run, RunWriter
from mpdiag.store.attention import pack
from mpdiag.store.schema import ATTENTION

MakeRun = Callable[..., Path]


def row(layer: int, weights: Any, mask: Any = None) -> dict[str, Any]:
    packed, step = pack(weights)
    height, width = weights.shape
    return {
        "image_id": 2,
        "layer": layer,
        "query": 5,
        "height": height,
        "width": width,
        "image_height": height - 0.5,
        "image_width": float(width),
        "counts": None if mask is None else rle.encode(mask),
        "weights": packed,
        "step": step,
    }


@pytest.fixture
def write(tmp_path: Path, make_run: MakeRun) -> Callable[[list[dict[str, Any]]], Run]:
    """Return a function that opens a run of two layers with the given rows of attention."""

    def write(rows: list[dict[str, Any]]) -> Run:
        path = make_run(tmp_path / "run", layers=2)
        table = pa.Table.from_pylist(rows, schema=ATTENTION)
        RunWriter(path).write_selected("attention", "part-000", table)
        return Run.open(path)

    return write


def test_round_trip(write: Callable[..., Run]) -> None:
    weights = np.array([[0.0, 0.2, 0.3], [0.1, 0.4, 0.0]], dtype=np.float32)
    first, second = write(
        [row(2, weights[:1]), row(1, weights, weights > 0)]  # in any order
    ).attention(2, 5)
    assert np.allclose(first.weights, weights, rtol=0, atol=0.4 / 510 + 1e-7)
    assert np.array_equal(first.mask, weights > 0)
    assert (first.image, second.image) == ((1.5, 3.0), (0.5, 3.0))
    assert second.mask is None
    assert second.weights.shape == (1, 3)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([0, 0], [0, 0]), ([np.nan, 0.5], [0, 0.5]), ([np.inf, 1e-42], [0, 1e-42])],
)
def test_non_finite_weights_are_0(
    write: Callable[..., Run], weights: list[float], expected: list[float]
) -> None:
    given = np.array([weights], dtype=np.float32)
    found = write([row(1, given), row(2, given)]).attention(2, 5)[0].weights
    assert np.allclose(found, [expected], rtol=1e-3, atol=0)


def test_a_run_without_attention_names_the_option(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run")
    shutil.rmtree(path / "attention")  # as in the runs of earlier versions
    with pytest.raises(RunError, match="has no attention of image 2, query 5"):
        Run.open(path).attention(2, 5)


CHANGES: list[dict[str, Any]] = [
    {"height": 3},
    {"height": -2, "width": -3},
    {"height": 2**31 - 1, "width": 2**31 - 1},
    {"height": None},
    {"height": 0, "width": 0, "weights": b""},
    {"weights": None},
    {"weights": b"12345"},
    {"counts": b"\xff\xff"},
    {"counts": rle.encode(np.ones((9, 9), dtype=bool))},
    {"counts": b"1" * 8},  # longer than those of any mask of 6 cells
    {"step": -1.0},
    {"step": float("nan")},
    {"step": None},
    {"image_height": 3.0},
    {"image_width": 0.0},
    {"image_width": None},
    {"layer": 2},
    {"layer": 7},
]


@pytest.fixture(scope="module")
def damaged(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of two layers in which the attention of query k is valid but for CHANGES[k]."""
    path = make_run(tmp_path_factory.mktemp("damaged") / "run", layers=2)
    weights = np.full((2, 3), 1 / 6, dtype=np.float32)
    rows = []
    for query, change in enumerate(CHANGES):
        first, second = (row(layer, weights, weights > 0) for layer in (1, 2))
        rows += [{**first, **change, "query": query}, {**second, "query": query}]
    table = pa.Table.from_pylist(rows, schema=ATTENTION)
    RunWriter(path).write_selected("attention", "part-000", table)
    return Run.open(path)


@pytest.mark.parametrize("query", range(len(CHANGES)), ids=[str(change) for change in CHANGES])
def test_invalid_values_are_named(damaged: Run, query: int) -> None:
    with pytest.raises(RunError, match=rf"image 2, query {query} is invalid \("):
        damaged.attention(2, query)


def test_long_values_are_not_fetched(
    write: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = np.full((2, 3), 1 / 6, dtype=np.float32)
    run = write([row(1, weights), row(2, weights)])
    monkeypatch.setattr(rle, "MAX_CELLS", 18)  # 6 cells for each of layers 0..2
    assert len(run.attention(2, 5)) == 2
    monkeypatch.setattr(rle, "MAX_CELLS", 17)
    with pytest.raises(RunError, match="the number of weights is not the number of cells"):
        run.attention(2, 5)
