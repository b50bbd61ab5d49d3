"""Mapillary Vistas and ADE20K-full, written in their layouts and read back."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpdiag.data import load_dataset
from mpdiag.errors import DataError

SIZE = (6, 8)


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), 7, np.uint8)).save(path)


def draw_map(background: int, *, top: int, kind: type) -> np.ndarray:
    numbers = np.full(SIZE, background, kind)
    numbers[:2] = top
    return numbers


@pytest.fixture
def mapillary(tmp_path: Path) -> Path:
    """Two classes and "none"; the upper third of the image is a car, the rest is unlabelled."""
    home = tmp_path / "mapillary_vistas"
    split = home / "validation"
    write_image(split / "images" / "a.jpg")
    labels = [
        {"readable": name, "instances": name == "Car", "evaluate": name != "Unlabeled"}
        for name in ("Road", "Car", "Unlabeled")
    ]
    (home / "config.json").write_text(json.dumps({"labels": labels}))
    (split / "labels").mkdir()
    label_map = Image.fromarray(draw_map(2, top=1, kind=np.uint8)).convert("P")
    label_map.save(split / "labels" / "a.png")  # a palette image, as in the data set
    panoptic = split / "panoptic"
    panoptic.mkdir()
    ids = np.zeros((*SIZE, 3), np.uint8)
    ids[:2] = (1, 2, 0)  # 1 + 2 * 256
    Image.fromarray(ids).save(panoptic / "a.png")
    content = {
        "images": [{"id": "a", "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 1, "name": "Road", "isthing": 0}, {"id": 2, "name": "Car"}],
        "annotations": [
            {
                "image_id": "a",
                "file_name": "a.png",
                "segments_info": [{"id": 513, "category_id": 2, "iscrowd": 0}],
            }
        ],
    }
    (panoptic / "panoptic_2018.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("name", ["mapillary_vistas_sem_seg_val", "mapillary_vistas_panoptic_val"])
def test_mapillary(mapillary: Path, name: str) -> None:
    data = load_dataset(name, root=mapillary)
    assert [(info.name, info.isthing) for info in data.classes] == [("Road", False), ("Car", True)]
    (sample,) = list(data)
    assert sample.file_name == "a.jpg" and sample.labels.tolist() == [1]
    np.testing.assert_array_equal(sample.masks[0], draw_map(0, top=1, kind=np.bool_))
    assert data.describe()["name"] == "mapillary"


def test_mapillary_by_folder(mapillary: Path) -> None:
    data = load_dataset(str(mapillary / "mapillary_vistas"), task="semantic")
    assert data.name == "mapillary" and len(data) == 1


def test_missing_mapillary_files_and_tasks(mapillary: Path) -> None:
    home = mapillary / "mapillary_vistas"
    with pytest.raises(DataError, match="no instance annotations; choose task"):
        load_dataset("mapillary", root=mapillary, task="instance")
    with pytest.raises(DataError, match=r"--root or \$DETECTRON2_DATASETS"):
        load_dataset("mapillary_vistas_sem_seg_train", root=mapillary)
    with pytest.raises(DataError, match="train or val"):
        load_dataset("mapillary", root=mapillary, split="test", task="semantic")
    (home / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"config\.json: does not list the classes"):
        load_dataset("mapillary_vistas_sem_seg_val", root=mapillary)
    (home / "config.json").unlink()
    with pytest.raises(DataError, match=r"config\.json"):
        load_dataset("mapillary_vistas_sem_seg_val", root=mapillary)


def test_ade20k_full(tmp_path: Path) -> None:
    """16-bit values: 65535 is ignored and 255 is a normal class."""
    home = tmp_path / "ADE20K_2021_17_01"
    write_image(home / "images_detectron2" / "training" / "a.jpg")
    maps = home / "annotations_detectron2" / "training"
    maps.mkdir(parents=True)
    numbers = draw_map(65535, top=846, kind=np.uint16)
    numbers[5] = 255
    Image.fromarray(numbers).save(maps / "a.tif")
    data = load_dataset("ade20k_full_sem_seg_train", root=tmp_path)
    assert len(data.classes) == 847
    assert len(load_dataset(str(home), split="train", task="semantic").classes) == 847
    assert data[0].labels.tolist() == [255, 846]
    np.testing.assert_array_equal(data[0].masks[1], draw_map(0, top=1, kind=np.bool_))
    with pytest.raises(DataError, match="no panoptic annotations; choose task semantic"):
        load_dataset("ade20k-full", root=tmp_path, split="train", task="panoptic")
    with pytest.raises(DataError, match=r"prepare_ade20k_full_sem_seg\.py"):
        load_dataset("ade20k_full_sem_seg_val", root=tmp_path)
