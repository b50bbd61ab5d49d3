"""Transitions by hand, their counts by loops, and properties of their classes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mpdiag.store.database import MACROS, connect
from mpdiag.store.schema import TABLES
from mpdiag.store.transitions import (
    TRANSITIONS,
    Thresholds,
    transition_counts_sql,
    transitions,
    transitions_sql,
)

MakeRun = Callable[..., Path]
Pair = tuple[dict[str, Any], dict[str, Any], float | None]  # before, now, IoU of the two
DEFAULTS = Thresholds()


def step(area: int, gt: int = -1, iou: float = 0.0, second: float = 0.0) -> dict[str, Any]:
    return {"area": area, "best_gt": gt, "best_gt_iou": iou, "second_coverage": second,
            "matched_gt": -1}  # fmt: skip


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    """Return a database whose tables `kinds` replaces."""
    with duckdb.connect() as connection:
        for macro in MACROS:
            connection.execute(macro)
        yield connection


def kinds(
    database: duckdb.DuckDBPyConnection, pairs: list[Pair], thresholds: Thresholds = DEFAULTS
) -> list[str]:
    """Fill in a run of one image with one query per pair, and return their transitions."""
    queries = [
        {"image_id": 1, "layer": layer, "query": n, **row, "iou_prev": iou if layer else None}
        for n, (before, now, iou) in enumerate(pairs)
        for layer, row in enumerate((before, now))
    ]
    content = {"queries": queries, "images": [{"image_id": 1, "num_gt": 0}]}
    for name, schema in TABLES.items():
        database.register(name, pa.Table.from_pylist(content.get(name, []), schema))
    found = database.execute(f"SELECT kind FROM ({transitions_sql(thresholds)}) ORDER BY query")
    return [kind for (kind,) in found.fetchall()]


CASES = {
    "kept: the same": (step(9, 0, 0.5), step(9, 0, 0.5), 1.0),
    "kept: at the threshold": (step(10, 0, 0.5), step(9, 0, 0.4), 0.9),
    "kept: two empty masks": (step(0), step(0), None),
    "kept: little change, though a second object comes in": (
        step(100, 0, 0.9), step(104, 0, 0.88, 0.5), 100 / 104),
    "refined: closer to its object": (step(9, 0, 0.5), step(9, 0, 0.6), 0.5),
    "refined: from background to an object": (step(9), step(9, 1, 0.6), 0.1),
    "refined: from a trace of one object to another": (step(9, 0, 0.05), step(9, 1, 0.6), 0.1),
    "drifted: away from its object": (step(9, 0, 0.5), step(9, 0, 0.4), 0.5),
    "drifted: from an object to background": (step(9, 0, 0.5), step(9), 0.0),
    "drifted: within the background": (step(9), step(9), 0.0),
    "switched": (step(9, 0, 0.5), step(9, 1, 0.1), 0.0),
    "merged": (step(9, 0, 0.5, 0.49), step(20, 0, 0.4, 0.5), 0.45),
    "merged: though its best object changes": (step(9, 0, 0.5), step(20, 1, 0.4, 0.8), 0.4),
    "split": (step(20, 0, 0.4, 0.7), step(9, 1, 0.8, 0.2), 0.4),
    "vanished": (step(9, 0, 0.5), step(0), 0.0),
    "appeared": (step(0), step(9, 0, 0.5), 0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_class_by_hand(database: duckdb.DuckDBPyConnection, name: str) -> None:
    assert kinds(database, [CASES[name]]) == [name.partition(":")[0]]


fraction = st.floats(0, 1)
masks = st.one_of(
    st.just(step(0)),
    st.builds(
        lambda area, gt, iou, second: step(area, gt if iou else -1, iou, second),
        st.integers(1, 50), st.integers(0, 3), fraction, fraction,
    ),
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(masks, masks, fraction), min_size=1, max_size=20),
    st.builds(
        Thresholds,
        kept_iou=st.floats(0.01, 1), object_iou=st.floats(0.01, 1), several=st.floats(0.01, 1),
    ),
)  # fmt: skip
def test_every_transition_has_exactly_one_class(
    database: duckdb.DuckDBPyConnection, pairs: list[Pair], thresholds: Thresholds
) -> None:
    pairs = [(a, b, iou if a["area"] or b["area"] else None) for a, b, iou in pairs]
    found = kinds(database, pairs, thresholds)
    assert len(found) == len(pairs) and set(found) <= set(TRANSITIONS)
    for kind, (before, now, iou) in zip(found, pairs, strict=True):
        # The condition of each class, independent of the order of the rules.
        assert (kind == "vanished") == bool(before["area"] and not now["area"])
        assert (kind == "appeared") == bool(now["area"] and not before["area"])
        if before["area"] and now["area"]:
            assert (kind == "kept") == (iou is not None and iou >= thresholds.kept_iou)
            more = now["second_coverage"] >= thresholds.several
            if kind in ("merged", "split"):
                assert more == (kind == "merged")
                assert more != (before["second_coverage"] >= thresholds.several)
            if kind in ("refined", "drifted"):
                assert (kind == "refined") == (now["best_gt_iou"] > before["best_gt_iou"])
    assert transitions(database, transition_counts_sql(thresholds))["count"].sum() == len(pairs)


def test_counts_and_gains_equal_loops(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run", images=12, queries=7, layers=4, shards=3)
    with connect(path) as connection:
        table = transitions(connection)
        rows = connection.execute("SELECT * FROM queries").df()
        moves = connection.execute(transitions_sql()).df().set_index(["image_id", "layer", "query"])
        num_gt = dict(connection.execute("SELECT image_id, num_gt FROM images").fetchall())
    assert table["layer"].tolist() == sorted([1, 2, 3, 4] * 8)
    match = rows.set_index(["image_id", "layer", "query"])["matched_gt"].to_dict()
    gains = dict.fromkeys([(layer, kind) for layer in range(1, 5) for kind in TRANSITIONS], 0.0)
    util = np.zeros(5)
    with_gt = sum(count > 0 for count in num_gt.values())
    for (image, layer, query), value in match.items():
        final = match[image, 4, query]
        if final < 0:
            continue
        util[layer] += (value == final) / num_gt[image] / with_gt
        if layer:
            before = match[image, layer - 1, query]
            kind = moves.loc[(image, layer, query), "kind"]
            change = int(before == final) - int(value == final)
            gains[layer, kind] += change / num_gt[image] / with_gt
    for row in table.itertuples():
        assert row.util_gain == pytest.approx(gains[row.layer, row.transition], abs=1e-12)
        of_class = moves.xs(row.layer, level="layer")["kind"] == row.transition
        assert row.count == of_class.sum() and row.share == pytest.approx(of_class.mean())
    # Reverting all transitions of a layer gives the layer before.
    changes = table.groupby("layer")["util_gain"].sum()
    assert changes.tolist() == pytest.approx((util[:-1] - util[1:]).tolist())
    assert table["util_gain"].min() < 0


def test_masks_that_are_not_finite_have_no_transition(
    database: duckdb.DuckDBPyConnection,
) -> None:
    lost = {**step(0), "area": None, "best_gt_iou": None, "second_coverage": None}
    assert kinds(database, [(step(9), lost, None), (step(9), step(9), 1.0)]) == ["kept"]


def test_thresholds_are_in_0_1(database: duckdb.DuckDBPyConnection) -> None:
    drifted = CASES["drifted: away from its object"]
    assert kinds(database, [drifted], Thresholds(kept_iou=0.5)) == ["kept"]
    with pytest.raises(ValidationError):
        Thresholds(kept_iou=90)
