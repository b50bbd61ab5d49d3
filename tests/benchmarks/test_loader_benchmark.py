"""`mpdiag bench loader`."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import naive_loader
from benchmarks.loader import _as_rle, bench_loader, loader_table
from benchmarks.naive_loader import NaiveMapper
from mpdiag.data import load_dataset
from mpdiag.errors import ConfigError


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two images of 48 x 64 with polygons: two in the first, none in the second."""
    generator = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        pixels = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    squares = [[[8, 4, 40, 4, 40, 30, 8, 30]], [[50, 10, 62, 10, 62, 40, 50, 40]]]
    content = {
        "images": [
            {"id": n, "file_name": f"{name}.png", "height": 48, "width": 64}
            for n, name in enumerate("ab")
        ],
        "annotations": [
            {"id": n, "image_id": 0, "category_id": 1, "iscrowd": 0, "segmentation": polygons}
            for n, polygons in enumerate(squares)
        ],
        "categories": [{"id": 1, "name": "square"}],
    }
    path = tmp_path / "squares.json"
    path.write_text(json.dumps(content))
    return path


def test_both_forms_are_timed(coco: Path, render) -> None:
    timings = bench_loader(str(coco), root=coco.parent, split="val", images=5)
    assert [(x.form, x.images) for x in timings] == [("as annotated", 1), ("RLE", 1)]
    assert all(x.naive > 0 and x.mpdiag > 0 for x in timings)
    assert json.loads(json.dumps(asdict(timings[0])))["form"] == "as annotated"
    assert "speedup" in render(loader_table(timings))
    with pytest.raises(ConfigError, match="--images 0"):
        bench_loader(str(coco), root=coco.parent, split="val", images=0)


def test_naive_mapper_returns_the_sample_of_the_data_set(coco: Path, monkeypatch) -> None:
    monkeypatch.setattr(naive_loader, "SIDE", 64)
    monkeypatch.setattr(naive_loader, "SCALES", (1.0, 1.0))
    sample = load_dataset(str(coco), root=coco.parent)[0]
    flips = set()
    with _as_rle(coco) as packed:
        for path in (coco, packed):
            for seed in range(6):
                image, masks = NaiveMapper(path, coco.parent)(0, seed)
                assert (image[:, 48:] == naive_loader.PADDING_VALUE).all()
                assert not masks[:, 48:].any()
                flipped = not torch.equal(image[:, :48], sample.image)
                expected = sample.masks.flip(-1) if flipped else sample.masks
                assert torch.equal(masks[:, :48], expected)
                assert torch.equal(image[:, :48].flip(-1) if flipped else image[:, :48],
                                   sample.image)  # fmt: skip
                flips.add(flipped)
    assert flips == {False, True}
