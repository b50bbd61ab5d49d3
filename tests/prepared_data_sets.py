"""Data sets as their preparation scripts leave them, with a few drawn images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mpdiag.data.class_lists import ade20k_classes, cityscapes_classes

Bools = npt.NDArray[np.bool_]
Map = npt.NDArray[np.integer[Any]]
Rows = list[dict[str, Any]]
SIZE = (64, 96)  # of all images
BED, PERSON = (1, 8), (4, 13)  # ids among the 100 instance classes and among all 150 classes


@pytest.fixture(scope="session")
def ade20k_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ADEChallengeData2016/ as Mask2Former prepares it; 4 + 4 images.

    It also contains the source maps annotations/ and annotations_instance/. The last image of a
    split has no instance. In the first image, things cover all sky.
    """
    root = tmp_path_factory.mktemp("ade20k")
    for split, folder in (("train", "training"), ("val", "validation")):
        _write_ade20k(root / "ADEChallengeData2016", split, folder)
    return root


@pytest.fixture(scope="session")
def cityscapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with cityscapes/ as prepared by its scripts; 4 + 4 images.

    The last image of a split has no instance, only a group of cars.
    """
    root = tmp_path_factory.mktemp("cityscapes")
    for split, cities in (("train", ("aachen", "bochum")), ("val", ("frankfurt", "lindau"))):
        _write_cityscapes(root / "cityscapes", split, cities)
    return root


def _write_ade20k(home: Path, split: str, folder: str) -> None:
    things = [info for info in ade20k_classes() if info.isthing]
    listed: Rows = []
    instances: Rows = []
    panoptic: Rows = []
    for number in range(1, 5):
        name = f"ADE_{split}_{number:08d}"
        semantic, owners = _ade20k_scene(number)
        _save(home / "images" / folder / f"{name}.jpg", _photo(number, semantic))
        _save(home / "annotations" / folder / f"{name}.png", semantic)
        _save(home / "annotations_detectron2" / folder / f"{name}.png", semantic - np.uint8(1))
        _save(home / "annotations_instance" / folder / f"{name}.png", owners)
        listed.append({"id": name, "file_name": f"{name}.jpg", "height": 64, "width": 96})
        ids, segments = np.zeros(SIZE, dtype=np.int64), []
        for label in np.unique(semantic[semantic > 0]).tolist():
            if not ade20k_classes()[label - 1].isthing:
                ids[semantic == label] = label * 1000
                segments.append(_segment(label * 1000, label - 1, semantic == label))
        for instance in range(1, int(owners[..., 1].max()) + 1):
            mask = owners[..., 1] == instance
            category = things[int(owners[..., 0][mask][0]) - 1].category_id
            packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            rle = {"size": list(SIZE), "counts": packed["counts"].decode("ascii")}
            entry = _segment(len(instances) + 1, category, mask)
            instances.append(entry | {"image_id": name, "segmentation": rle})
            ids[mask] = instance * 100_000
            segments.append(_segment(instance * 100_000, category, mask))
        _save(home / f"ade20k_panoptic_{split}" / f"{name}.png", _colors(ids))
        panoptic.append({"image_id": name, "file_name": f"{name}.png", "segments_info": segments})
    for kind, annotations, classes in (
        ("instance", instances, things),
        ("panoptic", panoptic, ade20k_classes()),
    ):
        categories = [
            {"id": info.category_id, "name": info.name, "isthing": int(info.isthing)}
            for info in classes
        ]
        content = {"images": listed, "annotations": annotations, "categories": categories}
        (home / f"ade20k_{kind}_{split}.json").write_text(json.dumps(content))


def _ade20k_scene(number: int) -> tuple[Map, Map]:
    """Return (H, W) ids of the 150 classes, 0 for others, and (H, W, 3) class and instance ids."""
    semantic = np.full(SIZE, 1, dtype=np.uint8)  # class 1
    semantic[40:] = 4  # class 4
    semantic[:, :3] = 0
    owners = np.zeros((*SIZE, 3), dtype=np.uint8)
    if number == 4:
        return semantic, owners
    semantic[10:20, 10:40] = 3 if number == 1 else BED[1]  # sky
    owners[10:20, 10:40] = (BED[0], 1, 0)
    semantic[30:60, 50 + number : 70] = PERSON[1]
    owners[30:60, 50 + number : 70] = (PERSON[0], 2, 0)
    semantic[50:55, 80:90] = BED[1]
    owners[50:55, 80:90] = (BED[0], 3, 0)
    return semantic, owners


def _write_cityscapes(home: Path, split: str, cities: tuple[str, str]) -> None:
    train_ids = np.full(256, 255, dtype=np.uint8)
    train_ids[[info.category_id for info in cityscapes_classes()]] = np.arange(19)
    known = {info.category_id: info for info in cityscapes_classes()}
    listed: Rows = []
    annotations: Rows = []
    for number in range(4):
        city = cities[number // 2]
        name = f"{city}_000000_{number:06d}"
        instances = _cityscapes_scene(number)
        labels = np.where(instances < 1000, instances, instances // 1000).astype(np.uint8)
        _save(home / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png",
              _photo(number, labels))  # fmt: skip
        stem = home / "gtFine" / split / city / f"{name}_gtFine"
        _save(Path(f"{stem}_instanceIds.png"), instances.astype(np.uint16))
        _save(Path(f"{stem}_labelIds.png"), labels)
        _save(Path(f"{stem}_labelTrainIds.png"), train_ids[labels])
        ids, segments = np.zeros(SIZE, dtype=np.int64), []
        for value in np.unique(instances).tolist():
            info = known.get(value if value < 1000 else value // 1000)
            if info is not None:
                ids[instances == value] = value
                segment = _segment(value, info.category_id, instances == value)
                segments.append(segment | {"iscrowd": int(value < 1000 and info.isthing)})
        folder = f"cityscapes_panoptic_{split}"
        _save(home / "gtFine" / folder / f"{name}_gtFine_panoptic.png", _colors(ids))
        listed.append({"id": name, "height": 64, "width": 96,
                       "file_name": f"{name}_gtFine_leftImg8bit.png"})  # fmt: skip
        annotations.append({"image_id": name, "file_name": f"{name}_gtFine_panoptic.png",
                            "segments_info": segments})  # fmt: skip
    categories = [
        {"id": info.category_id, "name": info.name, "isthing": int(info.isthing)}
        for info in cityscapes_classes()
    ]
    content = {"images": listed, "annotations": annotations, "categories": categories}
    path = home / "gtFine" / f"cityscapes_panoptic_{split}.json"
    path.write_text(json.dumps(content))


def _cityscapes_scene(number: int) -> Map:
    """Return (H, W) instance ids: road, sky, unlabelled, ignored classes, and instances."""
    instances = np.full(SIZE, 7, dtype=np.int64)
    instances[:20] = 23
    instances[:, :4] = 0
    instances[60:] = 9
    instances[22:28, 80:95] = 26  # a group of cars
    if number < 3:
        instances[22:30, 60:75] = 29_000
        instances[30:50, 10:40] = 26_000
        instances[32:45, 45 : 50 + number] = 26_001
        instances[25:50, 55:58] = 24_000
    return instances


def _segment(number: int, category_id: int, mask: Bools) -> dict[str, Any]:
    rows, columns = np.nonzero(mask)
    y, x = int(rows.min()), int(columns.min())
    box = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
    return {"id": number, "category_id": category_id, "iscrowd": 0, "area": int(mask.sum()),
            "bbox": box}  # fmt: skip


def _colors(ids: Map) -> npt.NDArray[np.uint8]:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def _photo(seed: int, labels: Map) -> npt.NDArray[np.uint8]:
    """Return an image with a different colour for each class."""
    colors = np.random.default_rng(5).integers(30, 226, (256, 3))
    noise = np.random.default_rng(seed).integers(-20, 21, (*SIZE, 3))
    return (colors[labels] + noise).astype(np.uint8)


def _save(path: Path, pixels: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
