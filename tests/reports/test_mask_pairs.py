"""Pairs of lowest IoU, compared with a search in numpy."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpdiag.store import Run
from reports.mask_images import GAP
from reports.mask_pairs import draw_pairs, lowest_iou_pairs

MakeRun = Callable[..., Path]


def search_pairs(run: Run) -> list[tuple[float, int, int, int]]:
    """Return IoU, image, query and layer of the pair of lowest IoU of each matched query."""
    rows = run.query("SELECT * FROM queries").to_dict("records")
    last = max(row["layer"] for row in rows)
    matched = {
        (row["image_id"], row["query"])
        for row in rows
        if row["layer"] == last and row["matched_gt"] >= 0
    }
    worst = []
    for image, query in matched:
        masks = run.masks(image, query)
        found = []
        for layer in range(1, last + 1):
            before, now = masks[layer - 1], masks[layer]
            if before.any() and now.any():
                iou = (before & now).sum() / (before | now).sum()
                found.append((iou, -int(before.sum() + now.sum()), image, query, layer))
        if found:
            worst.append(min(found))
    return [(iou, image, query, layer) for iou, _, image, query, layer in sorted(worst)]


def test_pairs_of_lowest_iou(tmp_path: Path, make_run: MakeRun) -> None:
    run = Run.open(make_run(tmp_path / "run", images=8, layers=5))
    expected = search_pairs(run)
    assert len(expected) > 6
    found = [(one.iou, one.image_id, one.query, one.layer) for one in lowest_iou_pairs(run, 6)]
    np.testing.assert_allclose([one[0] for one in found], [one[0] for one in expected[:6]])
    assert [one[1:] for one in found] == [one[1:] for one in expected[:6]]


def test_picture_has_both_masks_in_red(tmp_path: Path, make_run: MakeRun) -> None:
    run = Run.open(make_run(tmp_path / "run", images=8, layers=5))
    pair = lowest_iou_pairs(run, 1)[0]
    (picture,) = draw_pairs(run, [pair], "pair")
    assert picture.file_name == "pair-1.jpg"
    assert f"Query {pair.query} of the {pair.label} in layers {pair.layer - 1}" in picture.caption
    image = np.asarray(Image.open(io.BytesIO(picture.data))).astype(float)
    height, width = image.shape[0], (image.shape[1] - GAP) // 2
    for start, mask in zip((0, width + GAP), run.masks(pair.image_id, pair.query)[pair.layer - 1 :],
                           strict=False):  # fmt: skip
        rows = (np.arange(height) + 0.5) * mask.shape[0] / height
        columns = (np.arange(width) + 0.5) * mask.shape[1] / width
        on = mask[np.ix_(rows.astype(int), columns.astype(int))]
        side = image[:, start : start + width]
        redness = side[..., 0] - side[..., 1:].max(-1)
        assert redness[on].mean() > 60 > 20 > redness[~on].mean()


def test_picture_without_the_image(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(make_run(tmp_path / "run", images=8, layers=5))
    noise = np.random.default_rng(0).integers(0, 256, (480, 480, 3), dtype=np.uint8)
    monkeypatch.setattr("reports.mask_pairs.image_or_placeholder", lambda *_: noise[:240, :240])
    pair = lowest_iou_pairs(run, 1)[0]
    spreads = []
    for show in (True, False):
        (picture,) = draw_pairs(run, [pair], "pair", show_images=show)
        image = np.asarray(Image.open(io.BytesIO(picture.data))).astype(float)
        side = image[:, : (image.shape[1] - GAP) // 2]
        grey = np.abs(side[..., 0] - side[..., 1]) < 8
        spreads.append(side[grey].std())
    assert spreads[0] > 20 and spreads[1] < 4


def test_no_pairs_without_stored_masks(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run")
    for file in (path / "masks").iterdir():
        file.unlink()
    assert lowest_iou_pairs(Run.open(path), 5) == []
