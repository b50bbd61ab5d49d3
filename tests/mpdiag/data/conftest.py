"""Fixtures: tiny COCO data sets with every kind of annotation."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 20, 30


@pytest.fixture
def coco(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Return a function that writes the data set, changed by `edit`: (JSON, image folder)."""

    def write(edit: Callable[[dict[str, Any]], None] | None = None) -> tuple[Path, Path]:
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        for image_id in (7, 3, 5):
            rng = np.random.default_rng(image_id)
            pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{image_id}.png")
        content = instances()
        if edit:
            edit(content)
        path = tmp_path / "instances_val.json"
        path.write_text(json.dumps(content))
        return path, folder

    return write


def instances() -> dict[str, Any]:
    """Image 7: polygons, both kinds of RLE and a crowd; image 3: only a crowd; image 5: empty."""
    blob = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    blob[2:9, 20:27] = 1
    blob[5, 22:25] = 0
    packed = coco_mask.encode(blob)
    packed["counts"] = packed["counts"].decode("ascii")
    column_major = blob.ravel(order="F").astype(int)
    ends = np.flatnonzero(np.diff(column_major)) + 1
    runs = np.diff([0, *ends.tolist(), blob.size]).tolist()
    plain = {"size": [HEIGHT, WIDTH], "counts": runs}
    polygon = [1.5, 1.2, 12.0, 2.0, 9.3, 14.9, 3.0, 11.0]
    part = [15.0, 10.0, 19.5, 10.0, 19.5, 18.0]
    segmentations = [
        (11, 7, 40, 0, [polygon]),
        (12, 7, 2, 0, [polygon, part]),
        (13, 7, 40, 0, plain),
        (14, 7, 9, 0, packed),
        (15, 7, 2, 1, plain),
        (16, 3, 9, 1, packed),
        (17, 7, 9, 0, [[4.1, 4.1, 4.2, 4.1, 4.2, 4.2]]),
    ]
    return copy.deepcopy(
        {
            "images": [
                {"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH}
                for i in (7, 3, 5)
            ],
            "annotations": [
                {"id": number, "image_id": image, "category_id": category, "iscrowd": crowd,
                 "segmentation": segmentation, "area": 1.0, "bbox": [0, 0, 1, 1]}
                for number, image, category, crowd, segmentation in segmentations
            ],
            "categories": [
                {"id": 40, "name": "cup"}, {"id": 2, "name": "car"}, {"id": 9, "name": "dog"},
            ],
        }
    )  # fmt: skip


PANOPTIC_IDS = {"car": 66000, "dog": 300, "crowd": 17, "grass": 5}


@pytest.fixture
def panoptic(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """As `coco`: one image with two things, a crowd, a stuff segment and an unlabelled strip."""

    def write(edit: Callable[[dict[str, Any]], None] | None = None) -> tuple[Path, Path]:
        folder = tmp_path / "images"
        pngs = tmp_path / "panoptic_val"
        for made in (folder, pngs):
            made.mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (9, 8, 7)).save(folder / "1.jpg")
        ids = panoptic_ids()
        channels = [ids % 256, ids // 256 % 256, ids // 65536]  # R + 256 G + 65536 B
        Image.fromarray(np.stack(channels, -1).astype(np.uint8)).save(pngs / "1.png")
        segments = [
            {"id": PANOPTIC_IDS[name], "category_id": category, "iscrowd": int(name == "crowd"),
             "area": int((ids == PANOPTIC_IDS[name]).sum()), "bbox": [0, 0, 1, 1]}
            for name, category in (("car", 2), ("dog", 9), ("crowd", 9), ("grass", 120))
        ]  # fmt: skip
        content: dict[str, Any] = {
            "images": [{"id": 1, "file_name": "1.jpg", "height": HEIGHT, "width": WIDTH}],
            "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}],
            "categories": [
                {"id": 120, "name": "grass", "isthing": 0},
                {"id": 2, "name": "car", "isthing": 1},
                {"id": 9, "name": "dog", "isthing": 1},
            ],
        }
        if edit:
            edit(content)
        path = tmp_path / "panoptic_val.json"
        path.write_text(json.dumps(content))
        return path, folder

    return write


def panoptic_ids() -> np.ndarray:
    ids = np.full((HEIGHT, WIDTH), PANOPTIC_IDS["grass"])
    ids[:, :2] = 0
    ids[3:8, 5:12] = PANOPTIC_IDS["car"]
    ids[10:15, 5:9] = PANOPTIC_IDS["dog"]
    ids[10:15, 20:29] = PANOPTIC_IDS["crowd"]
    return ids
