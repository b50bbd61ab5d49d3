"""Gain of the masks of the MP part by how much they change, against a loop over all queries."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mpdiag.store import Run
from reports.reproduction.mask_changes import gains_by_change


def test_gains_of_a_run(make_run: Callable[..., Path], tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", part="piloted", images=5, queries=4, layers=3)
    rows = Run.open(path).query("SELECT * FROM queries").to_dict("records")
    iou = {(row["image_id"], row["query"], row["layer"]): row for row in rows}
    expected = {}
    for layer in (1, 2, 3):
        pairs = []
        for (image, query, own), row in iou.items():
            before = iou.get((image, query, own - 1))
            if own == layer and before is not None and row["iou_prev"] == row["iou_prev"]:
                gain = row["fed_gt_iou"] - before["fed_gt_iou"]
                if gain == gain:
                    pairs.append((row["iou_prev"], image, query, gain))
        pairs.sort()
        small, larger = divmod(len(pairs), 3)
        ends = [0]
        for third in range(3):
            ends.append(ends[-1] + small + (third < larger))
            part = pairs[ends[-2] : ends[-1]]
            expected[layer, third + 1] = sum(pair[-1] for pair in part) / len(part)
    assert len(expected) == 9
    assert gains_by_change(Run.open(path)) == pytest.approx(expected, abs=1e-12)
