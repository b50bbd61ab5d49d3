"""Invalid annotation files raise a one-line error that names the file and the entry."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpdiag.choices import Task
from mpdiag.data import coco_dataset
from mpdiag.errors import DataError

Files = Callable[..., tuple[Path, Path]]


def error_of(path: Path, task: Task = "instance") -> str:
    with pytest.raises(DataError) as caught:
        coco_dataset(path, path.parent / "images", task=task)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    return text


def test_missing_file(tmp_path: Path) -> None:
    assert "annotation file not found" in error_of(tmp_path / "absent.json")


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    assert "cannot be read" in error_of(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated(coco: Files, share: float) -> None:
    path, _ = coco()
    text = path.read_text()
    path.write_text(text[: int(len(text) * share)])
    assert "not complete JSON" in error_of(path)


def test_binary(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(b"\x80\x02}q\x00\xff")
    assert "not complete JSON" in error_of(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([{"image_id": 7, "category_id": 2, "score": 0.5}], "results"),
        (3, "not a COCO annotation file"),
        ({"schema_version": 1, "num_images": 4}, '"images"'),
        ({"images": [], "categories": []}, '"annotations"'),
        ({"images": {}, "annotations": [], "categories": []}, '"images"'),
        ({"images": [], "annotations": [], "categories": []}, 'empty list "images"'),
        ({"images": [1], "annotations": [], "categories": []}, 'empty list "categories"'),
        ({"images": [1], "annotations": [], "categories": [1]}, "entry 0 of images"),
    ],
    ids=["results", "number", "summary", "test set", "mapping", "no images", "no classes", "odd"],
)
def test_json_that_is_not_coco(tmp_path: Path, content: Any, expected: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content))
    assert expected in error_of(path)


@pytest.mark.parametrize(
    ("kind", "change", "expected"),
    [
        ("annotations", {"image_id": 99}, ["annotation 12", "image 99", "not listed"]),
        ("annotations", {"category_id": 77}, ["annotation 12", "category 77", "not listed"]),
        ("annotations", {"id": 11}, ["annotation 11", "twice"]),
        ("annotations", {"id": "12"}, ["entry 1 of annotations", "'12'", '"id"']),
        ("annotations", {"iscrowd": "0"}, ["annotation 12", "'0'", "0 or 1"]),
        ("annotations", {"iscrowd": "false"}, ["annotation 12", "'false'", "0 or 1"]),
        ("annotations", {"iscrowd": [0]}, ["annotation 12", "[0]", "0 or 1"]),
        ("categories", {"isthing": "0"}, ["entry 1 of categories", "'0'", "0 or 1"]),
        ("images", {"id": 7}, ["image 7", "twice"]),
        ("images", {"height": 0}, ["image 3", "0 x 30"]),
        ("images", {"id": -3}, ["image -3 has a negative id", "renumber"]),
        ("images", {"width": None}, ["entry 1 of images", '"width"']),
        ("images", {"file_name": "../secret.png"}, ["image 3", "../secret.png"]),
        ("images", {"file_name": "/etc/secret.png"}, ["image 3", "/etc/secret.png"]),
        ("categories", {"id": 40}, ["category 40", "twice"]),
    ],
)
def test_inconsistent_entry(
    coco: Files, kind: str, change: dict[str, Any], expected: list[str]
) -> None:
    path, _ = coco(lambda content: content[kind][1].update(change))
    text = error_of(path)
    assert all(part in text for part in expected), text


@pytest.mark.parametrize(
    ("value", "crowd"), [(0, False), (1, True), (False, False), (True, True), (None, False)]
)
def test_values_of_iscrowd(coco: Files, value: Any, crowd: bool) -> None:
    path, folder = coco(lambda content: content["annotations"][0].update(iscrowd=value))
    assert bool(coco_dataset(path, folder).ground_truth(0).crowd[0]) is crowd


@pytest.mark.parametrize(
    ("kind", "key"),
    [("images", "file_name"), ("images", "height"), ("annotations", "segmentation"),
     ("annotations", "category_id"), ("categories", "name")],
)  # fmt: skip
def test_missing_key(coco: Files, kind: str, key: str) -> None:
    path, _ = coco(lambda content: content[kind][1].pop(key))
    text = error_of(path)
    assert f"entry 1 of {kind}" in text and f'"{key}"' in text


def test_string_image_ids_are_numbered_by_position(coco: Files) -> None:
    def rename(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["id"] = f"ADE_val_{image['id']:08d}"
        for annotation in content["annotations"]:
            annotation["image_id"] = f"ADE_val_{annotation['image_id']:08d}"

    path, folder = coco()
    plain = coco_dataset(path, folder)
    named = coco_dataset(coco(rename)[0], folder)
    assert named.image_ids == [1, 2, 3]
    for index in range(3):
        assert named[index].file_name == plain[index].file_name
        assert named[index].labels.tolist() == plain[index].labels.tolist()

    def damage(content: dict[str, Any]) -> None:
        rename(content)
        content["annotations"][3]["image_id"] = "ADE_val_00000099"

    assert "annotation 14 belongs to image ADE_val_00000099" in error_of(coco(damage)[0])


@pytest.mark.parametrize("image_id", [None, 7.0, True, ["7"]])
def test_image_ids_of_other_types(coco: Files, image_id: Any) -> None:
    path, _ = coco(lambda content: content["images"][1].update(id=image_id))
    assert f'entry 1 of images has "id": {image_id!r}' in error_of(path)


def test_file_of_another_task(coco: Files, panoptic: Files) -> None:
    assert "contains instance annotations" in error_of(coco()[0], "panoptic")
    assert "contains panoptic annotations" in error_of(panoptic()[0], "instance")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image_id": 5}, ["image 5", "not listed"]),
        ({"segments_info": 3}, ["image 1", '"segments_info"']),
        ({"segments_info": [{"id": 3}]}, ["image 1", '"category_id"']),
        ({"segments_info": [{"id": 3, "category_id": 55}]}, ["segment 3", "category 55"]),
        (
            {"segments_info": [{"id": 3, "category_id": 2, "iscrowd": "0"}]},
            ["segment 3", "'0'", "0 or 1"],
        ),
        ({"segments_info": [{"id": 3, "category_id": 2}] * 2}, ["segment 3", "twice"]),
        ({"file_name": "../1.png"}, ["image 1", "../1.png"]),
    ],
)
def test_inconsistent_panoptic_entry(
    panoptic: Files, change: dict[str, Any], expected: list[str]
) -> None:
    path, _ = panoptic(lambda content: content["annotations"][0].update(change))
    text = error_of(path, "panoptic")
    assert all(part in text for part in expected), text


def test_image_without_panoptic_annotation(panoptic: Files) -> None:
    path, _ = panoptic(lambda content: content["annotations"].clear())
    assert "image 1 (1.jpg) has no panoptic annotation" in error_of(path, "panoptic")
