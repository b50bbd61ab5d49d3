"""Entries in the format of the detectron2 catalogs, read without detectron2."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mpdiag.data import load_dataset
from mpdiag.data.check import check_dataset
from mpdiag.data.detectron2_catalog import RecordReader
from mpdiag.data.problems import DataProblem
from mpdiag.errors import DataError, DependencyError

THINGS = {"thing_classes": ["cat", "dog"], "thing_dataset_id_to_contiguous_id": {17: 0, 18: 1}}
ALL = {
    "stuff_classes": ["cat", "dog", "grass"],
    "thing_dataset_id_to_contiguous_id": {17: 0, 18: 1},
    "stuff_dataset_id_to_contiguous_id": {17: 0, 18: 1, 90: 2},
}


def test_instances_of_every_kind() -> None:
    blob = np.zeros((4, 6), dtype=np.uint8, order="F")
    blob[1:3, 2:5] = 1
    annotations = [
        {"category_id": 1, "segmentation": coco_mask.encode(blob)},  # counts as bytes
        {"category_id": 0, "segmentation": [[0, 0, 2, 0, 2, 4, 0, 4]], "area": 7.5},
        {"category_id": 0, "segmentation": coco_mask.encode(blob), "iscrowd": 1},
    ]
    record = {"file_name": "1.jpg", "height": 4, "width": 6, "annotations": annotations}
    reader = RecordReader("mine", THINGS, "instance")
    truth = reader.read(record)
    assert truth.masks[0].tolist() == blob.astype(bool).tolist()
    assert truth.masks[1].sum() == 8 and truth.masks[1, :, :2].all()  # two columns of four
    assert truth.labels.tolist() == [1, 0, 0] and truth.crowd.tolist() == [False, False, True]
    assert truth.areas.tolist() == [6, 7.5, 6]
    assert reader.num_objects(record) == 2
    assert [(x.category_id, x.name, x.isthing) for x in reader.classes] == [
        (17, "cat", True),
        (18, "dog", True),
    ]


def test_panoptic_segments_and_class_maps(tmp_path: Path) -> None:
    ids = np.zeros((2, 3, 3), dtype=np.uint8)
    ids[0, :, 1] = 1  # segment 256
    ids[1, 0, 0] = 5
    Image.fromarray(ids).save(tmp_path / "ids.png")
    labels = np.array([[2, 2, 0], [255, 1, 1]], dtype=np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    record: dict[str, Any] = {
        "file_name": "1.jpg",
        "pan_seg_file_name": str(tmp_path / "ids.png"),
        "segments_info": [{"id": 5, "category_id": 0}, {"id": 256, "category_id": 2}],
        "sem_seg_file_name": str(tmp_path / "labels.png"),
    }
    panoptic = RecordReader("mine", ALL, "panoptic")
    truth = panoptic.read(record)
    assert truth.masks.int().tolist() == [[[0, 0, 0], [1, 0, 0]], [[1, 1, 1], [0, 0, 0]]]
    assert truth.labels.tolist() == [0, 2]
    assert [info.isthing for info in panoptic.classes] == [True, True, False]
    semantic = RecordReader("mine", {**ALL, "ignore_label": 1}, "semantic")
    with pytest.raises(DataError, match=r"labels\.png: has class index 255"):
        semantic.read(record)
    truth = RecordReader("mine", ALL, "semantic").read(record)
    assert truth.labels.tolist() == [0, 1, 2]
    assert truth.masks.sum((1, 2)).tolist() == [1, 2, 2]


@pytest.mark.parametrize(
    ("metadata", "task", "message"),
    [
        ({}, "instance", "names 0 classes for task instance, but has more; set thing_classes"),
        (THINGS | {"thing_classes": ["cat"]}, "instance", "names 1 classes"),
        (ALL | {"stuff_dataset_id_to_contiguous_id": {90: 0}}, "panoptic", "both have index 0"),
    ],
)
def test_metadata_without_all_classes(metadata: Any, task: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        RecordReader("mine", metadata, task)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"category_id": 2, "segmentation": []}, "1.jpg has category_id 2, but classes are 0 to 1"),
        ({"category_id": 0}, r"annotation 0 \(image 1.jpg\) is neither a list"),
    ],
)
def test_invalid_entries(annotation: Any, message: str) -> None:
    record = {"file_name": "1.jpg", "height": 4, "width": 6, "annotations": [annotation]}
    with pytest.raises(DataError, match=message):
        RecordReader("mine", THINGS, "instance").read(record)
    with pytest.raises(DataError, match=r"1\.jpg has no annotation of task panoptic"):
        RecordReader("mine", ALL, "panoptic").read(record)


@pytest.mark.parametrize("area", [None, float("nan"), float("inf"), "8", [8]])
def test_an_area_that_is_no_number_is_that_of_the_mask(area: Any) -> None:
    square = {"category_id": 0, "segmentation": [[0, 0, 2, 0, 2, 4, 0, 4]]}
    annotations = [square | {"area": area}, square | {"area": np.float32(7.5)}]
    record = {"file_name": "1.jpg", "height": 4, "width": 6, "annotations": annotations}
    assert RecordReader("mine", THINGS, "instance").read(record).areas.tolist() == [8, 7.5]


def test_every_unreadable_segmentation_is_a_problem_and_the_others_are_read() -> None:
    good = {"category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 4, 0, 4]]}
    annotations = [{"category_id": 0}, good, {"category_id": 0, "segmentation": [[1, 2]]}]
    record = {"file_name": "1.jpg", "height": 4, "width": 6, "annotations": annotations}
    problems: list[DataProblem] = []
    truth = RecordReader("mine", THINGS, "instance", problems.append).read(record)
    assert truth.labels.tolist() == [1] and truth.masks.sum() == 8
    assert [str(problem).split(" (")[0] for problem in problems] == [
        "mine: segmentation of annotation 0",
        "mine: segmentation of annotation 2",
    ]


class _Metadata(dict[str, Any]):
    as_dict = dict.copy


def register(
    monkeypatch: pytest.MonkeyPatch, records: list[dict[str, Any]], metadata: Any = THINGS
) -> None:
    """Register records as `mine` in the catalogs of a detectron2 that is not installed."""
    catalogs = ModuleType("detectron2.data")
    catalogs.DatasetCatalog = {"mine": records}  # type: ignore[attr-defined]
    catalogs.MetadataCatalog = {"mine": _Metadata(metadata)}  # type: ignore[attr-defined]
    package = ModuleType("detectron2")
    package.__spec__ = ModuleSpec("detectron2", None)
    monkeypatch.setitem(sys.modules, "detectron2", package)
    monkeypatch.setitem(sys.modules, "detectron2.data", catalogs)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0, 9], [0, 9]),
        ([-1, 9], [1, 2]),
        ([2**63, 9], [1, 2]),
        (["a"], [1]),
        ([9, 9], [1, 2]),
    ],
)
def test_image_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[Any], expected: list[int]
) -> None:
    file = tmp_path / "1.png"
    Image.new("RGB", (6, 4)).save(file)
    records = [{"file_name": str(file), "image_id": one, "annotations": []} for one in given]
    register(monkeypatch, records)
    assert load_dataset("mine").image_ids == expected


def test_missing_maps_are_reported_beside_missing_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("1.png", "2.png", "map-1.png"):
        Image.new("L", (6, 4)).save(tmp_path / name)
    records = [
        {
            "file_name": str(tmp_path / f"{x}.png"),
            "sem_seg_file_name": str(tmp_path / f"map-{x}.png"),
        }
        for x in range(1, 4)
    ]
    register(monkeypatch, records, ALL)
    missing = check_dataset("mine").errors["missing file"]
    assert missing.count == 3  # two maps and an image
    assert "2 of 3 files are missing" in missing.examples[0] and "map-2.png" in missing.examples[0]


def test_module_name_needs_detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"my_data:mine: a registered .* needs detectron2"):
        load_dataset("my_data:mine")
    with pytest.raises(DataError, match="mine: unknown data set; choose one of"):
        load_dataset("mine")
