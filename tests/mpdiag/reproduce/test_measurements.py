"""IoU of noised masks against the paper's bounds."""

from pathlib import Path

import pytest
import torch

from mpdiag.data import generate_synthetic, load_dataset
from mpdiag.reproduce.measurements import noise_overlap


@pytest.fixture(scope="module")
def overlap(tmp_path_factory: pytest.TempPathFactory) -> dict:
    root = tmp_path_factory.mktemp("data")
    generate_synthetic(root / "synthetic", train=1, val=12, size=96)
    return noise_overlap(load_dataset("synthetic", root=root, split="val", task="instance"))


def test_point_noise_keeps_to_the_bound_of_eq_4(overlap: dict) -> None:
    rows = [row for row in overlap["rows"] if row["noise"] == "point"]
    assert {(row["ratio"], row["stride"]) for row in rows} == {
        (ratio, stride) for ratio in (0.1, 0.2) for stride in (4, 8, 16, 32)
    }
    for row in rows:
        assert row["least"] >= 1 - row["ratio"] - 1e-6
    milder, stronger = (
        next(row["mean"] for row in rows if (row["ratio"], row["stride"]) == (ratio, 4))
        for ratio in (0.1, 0.2)
    )
    assert stronger < milder < 1


def test_all_rows_have_the_same_masks(overlap: dict) -> None:
    counts = {row["masks"] for row in overlap["rows"] if row["noise"] != "box shift"}
    assert len(counts) == 1
    for row in overlap["rows"]:
        assert sum(row["histogram"]) == row["masks"]
        assert row["least"] <= row["low"] <= row["median"] <= row["high"] <= 1
        edges = torch.linspace(0, 1, len(row["histogram"]) + 1)
        shares = torch.tensor(row["histogram"]) / row["masks"]
        assert float((shares * edges[:-1]).sum()) <= row["mean"] + 1e-6
        assert row["mean"] <= float((shares * edges[1:]).sum()) + 1e-6


def test_masks_of_examples_have_their_iou(overlap: dict) -> None:
    assert {example["noise"] for example in overlap["examples"]} >= {"point", "shift", "scale"}
    for example in overlap["examples"]:
        clean, noised = ("".join(example[key]) for key in ("clean", "noised"))
        both = sum(a == b == "1" for a, b in zip(clean, noised, strict=True))
        either = sum("1" in pair for pair in zip(clean, noised, strict=True))
        assert example["iou"] == pytest.approx(both / either)


def test_shifted_boxes_are_boxes(overlap: dict) -> None:
    """All rows of a shifted box are equal runs of cells."""
    example = next(one for one in overlap["examples"] if one["noise"] == "box shift")
    for key in ("clean", "noised"):
        rows = {row for row in example[key] if "1" in row}
        assert len(rows) == 1 and "10" not in rows.pop().strip("0")


def test_equal_data_give_equal_numbers(overlap: dict, tmp_path: Path) -> None:
    generate_synthetic(tmp_path / "synthetic", train=1, val=12, size=96)
    again = noise_overlap(load_dataset("synthetic", root=tmp_path, split="val", task="instance"))
    assert again == overlap
