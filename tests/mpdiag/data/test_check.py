"""`mpdiag data check`: each kind of problem is found and counted, with examples."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mpdiag.data import generate_synthetic, load_dataset
from mpdiag.data.check import CheckResult, ClassCount, check_dataset, classes_by_frequency
from mpdiag.data.check_tables import check_tables
from mpdiag.errors import DataError

Files = Callable[..., tuple[Path, Path]]


def counts(groups: dict[str, Any]) -> dict[str, int]:
    return {kind: group.count for kind, group in groups.items()}


def printed(checked: CheckResult) -> str:
    console = Console(width=200, file=io.StringIO())
    for table in check_tables(checked):
        console.print(table)
    return console.file.getvalue()


def test_data_set_without_problems(tmp_path: Path) -> None:
    generate_synthetic(tmp_path / "set", train=1, val=4, size=64)
    for task in ("instance", "panoptic", "semantic"):
        steps: list[tuple[int, int]] = []
        checked = check_dataset(
            str(tmp_path / "set"), task=task, progress=lambda *step, steps=steps: steps.append(step)
        )
        assert not checked.errors
        assert set(checked.warnings) <= {"class without images"}
        assert checked.images == 4 and steps == [(done, 4) for done in (1, 2, 3, 4)]


def test_counts_by_class_and_size_are_those_of_the_annotations(tmp_path: Path) -> None:
    generate_synthetic(tmp_path / "set", train=1, val=5, size=128)
    checked = check_dataset(str(tmp_path / "set"))
    content = json.loads((tmp_path / "set/annotations/instances_val.json").read_text())
    for number, category in enumerate(content["categories"]):
        own = [one for one in content["annotations"] if one["category_id"] == category["id"]]
        small = sum(one["area"] <= 1024 for one in own)
        large = sum(one["area"] > 9216 for one in own)
        images = len({one["image_id"] for one in own})
        expected = ClassCount(images, len(own), small, len(own) - small - large, large, 0)
        assert checked.counts[number] == expected
    found = [count.objects for _, count in classes_by_frequency(checked)]
    assert found == sorted(found, reverse=True) and sum(found) == len(content["annotations"])
    sizes = [sum(getattr(one, size) for one in checked.counts) for size in ("small", "medium")]
    row = ["all", "5", sum(found), *sizes, sum(found) - sum(sizes), 0]
    assert " ".join(map(str, row)) in " ".join(printed(checked).split())
    assert check_dataset(str(tmp_path / "set"), limit=2).images == 2


def damage(content: dict[str, Any]) -> None:
    """Damage most of the annotations 11 to 17 and add invalid images (see conftest.py)."""
    annotations = content["annotations"]
    annotations[0]["category_id"] = 77
    annotations[1]["segmentation"] = [[1, 1, 5, 5]]
    annotations[2]["image_id"] = 99
    content["annotations"] += [
        dict(annotations[3], id=11),  # twice
        dict(annotations[3], id=21),  # the same mask of the same class
        dict(annotations[3], id=22, segmentation=[[2, 2, 20, 2, 20, 2.9, 2, 2.9]]),  # a line
        {"id": 23, "image_id": 7},
        "no entry",
        dict(annotations[3], id=24, image_id=8),  # of an image with an invalid entry
    ]
    content["images"] += [
        {"id": 8, "file_name": "8.png", "height": 20},
        {"id": 9, "file_name": "9.png", "height": 20, "width": 30},
        {"id": 10, "file_name": "5.png", "height": 20, "width": 30},
        {"id": 11, "file_name": "../11.png", "height": 20, "width": 30},
        {"id": 12, "file_name": "12.png", "height": 20, "width": 30},
        {"id": 13, "file_name": "13.png", "height": 20, "width": 30},
    ]
    content["categories"].append({"id": 50, "name": "bird"})


def test_every_problem_is_found(coco: Files) -> None:
    path, folder = coco(damage)
    (folder / "12.png").write_bytes((folder / "5.png").read_bytes()[:300])
    Image.new("RGB", (31, 20)).save(folder / "13.png")
    checked = check_dataset(str(path), root=folder)
    assert counts(checked.errors) == {
        "unknown category": 1,
        "unreadable segmentation": 1,
        "unknown image": 1,
        "id listed twice": 1,
        "incomplete entry": 3,
        "missing file": 1,
        "file name outside the folder": 1,
        "unreadable image": 1,
        "image of another size": 1,
    }
    assert counts(checked.warnings) == {
        "empty segment": 1,
        "segment annotated twice": 1,
        "mask one pixel wide or high": 1,
        "image with crowds only": 1,
        "image without annotation": 4,  # not 13, whose annotations are not read
        "image file listed twice": 1,
        "class without images": 2,  # bird; cup, whose annotations are invalid
    }
    for kind, expected in {
        "unknown category": "annotation 11 has category 77",
        "unreadable segmentation": "segmentation of annotation 12 (image 7.png)",
        "unknown image": "annotation 13 belongs to image 99",
        "missing file": "9.png",
        "unreadable image": "12.png",
        "image of another size": "20 x 31",
    }.items():
        assert expected in checked.errors[kind].examples[0]
        assert expected in " ".join(printed(checked).split())
    assert checked.warnings["image with crowds only"].examples == ["3.png"]
    # Valid: dogs 14, 21, 22 and the empty one of image 7, and the crowd of image 3.
    dog = next(count for info, count in classes_by_frequency(checked) if info.name == "dog")
    assert (dog.images, dog.objects, dog.crowds) == (2, 4, 1)


def test_loading_raises_the_first_problem(coco: Files) -> None:
    path, folder = coco(damage)
    checked = check_dataset(str(path), root=folder)
    with pytest.raises(DataError) as caught:
        load_dataset(str(path), root=folder)
    everything = [text for group in checked.errors.values() for text in group.examples]
    assert str(caught.value) in everything


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"image_id": 7, "category_id": 2, "score": 0.5}]', "a list, like a results file"),
        ('{"schema_version": 1, "num_images": 4, "layers": []}', 'no list "images"'),
        ('{"images": [{"id": 1', "not complete JSON"),
    ],
    ids=["results", "summary", "truncated"],
)
def test_file_that_is_not_an_annotation_file(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    checked = check_dataset(str(path))
    assert checked.dataset is None and not checked.warnings
    (group,) = checked.errors.values()
    assert group.count == 1 and expected in group.examples[0] and str(path) in group.examples[0]
    assert expected in " ".join(printed(checked).split())


def test_panoptic_problems(panoptic: Files) -> None:
    def damage_panoptic(content: dict[str, Any]) -> None:
        segments = content["annotations"][0]["segments_info"]
        segments[0]["category_id"] = 55
        segments.append({"id": 4711, "category_id": 2})
        content["images"] += [
            {"id": 2, "file_name": "1.jpg", "height": 20, "width": 30},
            {"id": 3, "file_name": "1.jpg", "height": 20, "width": 30},
        ]
        content["annotations"].append({"image_id": 3, "file_name": "3.png", "segments_info": []})

    path, folder = panoptic(damage_panoptic)
    checked = check_dataset(str(path), root=folder)
    assert checked.dataset is not None and checked.dataset.task == "panoptic"
    # The car is in the PNG and in the file, so only its category is reported.
    assert counts(checked.errors) == {
        "unknown category": 1,
        "image without panoptic annotation": 1,
        "missing file": 1,
    }
    assert checked.warnings["empty segment"].count == 1
    assert checked.warnings["image file listed twice"].examples == ["1.jpg"]


def test_label_maps(ade20k_root: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(ade20k_root, tmp_path / "copy")) / "ADEChallengeData2016"
    maps = home / "annotations_detectron2" / "validation"
    numbers = np.full((64, 96), 255, dtype=np.uint8)
    Image.fromarray(numbers).save(maps / "ADE_val_00000001.png")
    numbers[:5] = 3
    numbers[5:9] = 170
    Image.fromarray(numbers).save(maps / "ADE_val_00000002.png")
    (maps / "ADE_val_00000003.png").unlink()
    (home / "images" / "validation" / "ADE_val_00000004.jpg").unlink()
    checked = check_dataset(str(home), task="semantic")
    assert counts(checked.errors) == {"class index out of range": 1, "missing file": 2}
    assert checked.warnings["image without annotation"].examples == ["ADE_val_00000001.jpg"]
    stuff = next(count for info, count in classes_by_frequency(checked) if info.name == "floor")
    assert (stuff.images, stuff.small) == (2, 1)


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_layout_is_detected_from_the_folder(
    ade20k_root: Path, cityscapes_root: Path, tmp_path: Path, task: str
) -> None:
    for root, name, own in (
        (ade20k_root / "ADEChallengeData2016", "ade20k", "mine"),
        (cityscapes_root / "cityscapes", "cityscapes", "yours"),
    ):
        folder = tmp_path / own
        folder.symlink_to(root)
        for split in ("train", "val"):
            checked = check_dataset(str(folder), split=split, task=task)
            assert checked.dataset is not None and checked.dataset.name == name
            assert checked.dataset.split == split and not checked.errors
    checked = check_dataset(str(tmp_path))
    (group,) = checked.errors.values()
    assert str(tmp_path) in group.examples[0] and "synthetic, coco" in group.examples[0]


def test_cityscapes_groups_are_crowds(cityscapes_root: Path) -> None:
    checked = check_dataset("cityscapes", root=cityscapes_root)
    assert not checked.errors and checked.warnings["image with crowds only"].count == 1
    found = {info.name: count for info, count in classes_by_frequency(checked)}
    assert (found["car"].images, found["car"].objects, found["car"].crowds) == (4, 6, 4)
    assert (found["person"].images, found["person"].objects) == (3, 3)
