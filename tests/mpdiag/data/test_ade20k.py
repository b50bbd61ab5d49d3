"""ADE20K against the maps that its prepared files were created from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mpdiag.data import load_dataset
from mpdiag.data.class_lists import ade20k_classes
from mpdiag.errors import DataError

HOME = "ADEChallengeData2016"


@pytest.fixture
def copied(tmp_path: Path, ade20k_root: Path) -> Path:
    """A copy that a test can damage."""
    return Path(shutil.copytree(ade20k_root, tmp_path / "copy"))


def maps(root: Path, folder: str, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Semantic class (0: none), instance class and instance number of a validation image."""
    name = f"validation/ADE_val_{number:08d}.png"
    semantic = np.array(Image.open(root / HOME / "annotations" / name))
    owners = np.array(Image.open(root / HOME / "annotations_instance" / name))
    return semantic, owners[..., 0], owners[..., 1]


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_all_tasks_have_the_same_images(ade20k_root: Path, task: str) -> None:
    for split in ("train", "val"):
        data = load_dataset("ade20k", root=ade20k_root, split=split, task=task)
        assert data.image_ids == [1, 2, 3, 4]
        names = [data[index].file_name for index in range(4)]
        assert names == [f"ADE_{split}_{number:08d}.jpg" for number in (1, 2, 3, 4)]
        folder = ade20k_root / HOME / "images" / ("training" if split == "train" else "validation")
        for name, sample in zip(names, data, strict=True):
            pixels = np.array(Image.open(folder / name))
            assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), pixels)
            assert sample.original_size == (64, 96)


def test_semantic(ade20k_root: Path) -> None:
    data = load_dataset("ade20k", root=ade20k_root, task="semantic")
    assert data.task == "semantic" and len(data.classes) == 150
    assert data.num_objects(0) == 1
    for number in (1, 2, 3, 4):
        semantic, _, _ = maps(ade20k_root, "validation", number)
        sample = data[number - 1]
        assert sample.labels.tolist() == [k - 1 for k in np.unique(semantic) if k]
        for mask, label in zip(sample.masks.numpy(), sample.labels.tolist(), strict=True):
            np.testing.assert_array_equal(mask, semantic == label + 1)
        assert not sample.masks[:, :, :3].any()


def test_instance(ade20k_root: Path) -> None:
    data = load_dataset("ade20k", root=ade20k_root)
    assert len(data.classes) == 100 and data.classes[0].name == "bed"
    assert [data.num_objects(index) for index in range(4)] == [3, 3, 3, 0]
    for number in (1, 2, 3, 4):
        _, classes, numbers = maps(ade20k_root, "validation", number)
        sample = data[number - 1]
        assert len(sample.masks) == numbers.max()
        for instance, mask in enumerate(sample.masks.numpy(), start=1):
            np.testing.assert_array_equal(mask, numbers == instance)
            # The 100 instance classes are numbered from 1 in the order of the 150 classes.
            assert set(classes[mask]) == {int(sample.labels[instance - 1]) + 1}


def test_panoptic(ade20k_root: Path) -> None:
    data = load_dataset("ade20k", root=ade20k_root, task="panoptic")
    assert data.classes == ade20k_classes()
    for number in (1, 2, 3, 4):
        semantic, _, numbers = maps(ade20k_root, "validation", number)
        sample = data[number - 1]
        assert (sample.masks.sum(0) <= 1).all()
        covered = sample.masks.any(0).numpy()
        np.testing.assert_array_equal(covered, (numbers > 0) | (semantic > 0))
        things = torch.tensor([data.classes[k].isthing for k in sample.labels])
        assert things.sum() == numbers.max()
        assert set(sample.labels[~things].tolist()) == {0, 3}  # two stuff classes


def test_stuff_behind_things_is_an_empty_segment(ade20k_root: Path) -> None:
    """The prepared file lists it, and PQ counts it as missed."""
    data = load_dataset("ade20k", root=ade20k_root, task="panoptic")
    truth = data.ground_truth(0)
    assert truth.areas[truth.labels == 2].tolist() == [0.0]
    assert len(truth.labels) == len(data[0].labels) + 1 and 2 not in data[0].labels


def test_class_list() -> None:
    classes = ade20k_classes()
    assert [info.category_id for info in classes] == list(range(150))
    assert sum(info.isthing for info in classes) == 100
    assert len({info.name for info in classes}) == 150
    named = {info.name: (info.category_id, info.isthing) for info in classes}
    assert named["wall"] == (0, False) and named["person"] == (12, True)
    assert named["flag"] == (149, True) and named["window"] == (8, True)


def message(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("task", "missing", "script"),
    [
        ("instance", "ade20k_instance_val.json", "prepare_ade20k_ins_seg.py"),
        ("panoptic", "ade20k_panoptic_val.json", "prepare_ade20k_pan_seg.py"),
        ("semantic", "annotations_detectron2/validation", "prepare_ade20k_sem_seg.py"),
    ],
)
def test_files_that_were_not_prepared(copied: Path, task: str, missing: str, script: str) -> None:
    (copied / HOME / missing).rename(copied / "away")
    text = message(lambda: load_dataset("ade20k", root=copied, task=task))
    assert str(copied / HOME / missing) in text and script in text


def test_missing_files(copied: Path, tmp_path: Path) -> None:
    assert "--root" in message(lambda: load_dataset("ade20k", root=tmp_path))
    assert "train or val" in message(lambda: load_dataset("ade20k", root=copied, split="test"))
    image = copied / HOME / "images" / "validation" / "ADE_val_00000002.jpg"
    image.unlink()
    for task in ("instance", "panoptic", "semantic"):
        text = message(lambda task=task: load_dataset("ade20k", root=copied, task=task))
        assert image.name in text and str(image.parent) in text
    label_map = copied / HOME / "annotations_detectron2" / "training" / "ADE_train_00000003.png"
    label_map.unlink()
    text = message(lambda: load_dataset("ade20k", root=copied, task="semantic", split="train"))
    assert "1 of 4 images" in text and label_map.name in text and str(label_map.parent) in text


def test_original_label_maps_are_rejected(copied: Path) -> None:
    """Original maps count from 1, so that class index 150 is out of range."""
    path = copied / HOME / "annotations_detectron2" / "validation" / "ADE_val_00000001.png"
    Image.fromarray(np.full((64, 96), 150, dtype=np.uint8)).save(path)
    data = load_dataset("ade20k", root=copied, task="semantic")
    text = message(lambda: data[0])
    assert str(path) in text and "index 150" in text


def test_color_image_instead_of_a_map(copied: Path) -> None:
    path = copied / HOME / "annotations_detectron2" / "validation" / "ADE_val_00000001.png"
    Image.new("RGB", (96, 64)).save(path)
    data = load_dataset("ade20k", root=copied, task="semantic")
    assert str(path) in message(lambda: data[0])


def test_map_of_another_size(copied: Path) -> None:
    folder = copied / HOME / "annotations_detectron2" / "validation"
    Image.new("L", (96, 60)).save(folder / "ADE_val_00000001.png")
    data = load_dataset("ade20k", root=copied, task="semantic")
    text = message(lambda: data[0])
    assert "64 x 96" in text and "60 x 96" in text and "ADE_val_00000001.jpg" in text


def test_duplicate_string_image_id(copied: Path) -> None:
    path = copied / HOME / "ade20k_panoptic_val.json"
    content = json.loads(path.read_text())
    content["images"][1]["id"] = content["images"][0]["id"]
    path.write_text(json.dumps(content))
    text = message(lambda: load_dataset("ade20k", root=copied, task="panoptic"))
    assert "image ADE_val_00000001 is listed twice" in text
