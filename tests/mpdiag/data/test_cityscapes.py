"""Cityscapes against its instance maps, from which the other files were created."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpdiag.data import load_dataset
from mpdiag.data.class_lists import cityscapes_classes
from mpdiag.errors import DataError

# Label ids of the evaluated classes, in the order of their train ids.
LABEL_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
THINGS = LABEL_IDS[11:]
NAMES = [
    "frankfurt/frankfurt_000000_000000",
    "frankfurt/frankfurt_000000_000001",
    "lindau/lindau_000000_000002",
    "lindau/lindau_000000_000003",
]


@pytest.fixture
def copied(tmp_path: Path, cityscapes_root: Path) -> Path:
    """A copy that a test can damage."""
    return Path(shutil.copytree(cityscapes_root, tmp_path / "copy"))


def instance_map(root: Path, name: str) -> np.ndarray:
    path = root / "cityscapes" / "gtFine" / "val" / f"{name}_gtFine_instanceIds.png"
    return np.array(Image.open(path)).astype(np.int64)


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_all_tasks_have_the_same_images(cityscapes_root: Path, task: str) -> None:
    data = load_dataset("cityscapes", root=cityscapes_root, task=task)
    assert data.image_ids == [1, 2, 3, 4]
    folder = cityscapes_root / "cityscapes" / "leftImg8bit" / "val"
    for name, sample in zip(NAMES, data, strict=True):
        assert sample.file_name == f"{name}_leftImg8bit.png"
        pixels = np.array(Image.open(folder / sample.file_name))
        assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), pixels)
    assert len(load_dataset("cityscapes", root=cityscapes_root, task=task, split="train")) == 4


def test_class_list() -> None:
    classes = cityscapes_classes()
    assert [info.category_id for info in classes] == LABEL_IDS
    assert [info.category_id for info in classes if info.isthing] == THINGS
    assert classes[0].name == "road" and classes[-1].name == "bicycle"


def test_semantic(cityscapes_root: Path) -> None:
    data = load_dataset("cityscapes", root=cityscapes_root, task="semantic")
    assert data.classes == cityscapes_classes()
    for name, sample in zip(NAMES, data, strict=True):
        numbers = instance_map(cityscapes_root, name)
        labels = np.where(numbers < 1000, numbers, numbers // 1000)
        expected = [k for k, label_id in enumerate(LABEL_IDS) if (labels == label_id).any()]
        assert sample.labels.tolist() == expected
        for mask, label in zip(sample.masks.numpy(), expected, strict=True):
            np.testing.assert_array_equal(mask, labels == LABEL_IDS[label])


def test_instance(cityscapes_root: Path) -> None:
    data = load_dataset("cityscapes", root=cityscapes_root)
    assert [info.category_id for info in data.classes] == THINGS
    assert data.num_objects(0) == 1
    for index, name in enumerate(NAMES):
        numbers = instance_map(cityscapes_root, name)
        expected = [n for n in np.unique(numbers).tolist() if n // 1000 in THINGS]
        sample, truth = data[index], data.ground_truth(index)
        assert [data.classes[k].category_id for k in sample.labels] == [n // 1000 for n in expected]
        for mask, number in zip(sample.masks.numpy(), expected, strict=True):
            np.testing.assert_array_equal(mask, numbers == number)
        # The group of cars is a crowd; caravans are not evaluated.
        assert truth.crowd.tolist() == [False] * len(expected) + [True]
        np.testing.assert_array_equal(truth.masks[-1].numpy(), numbers == 26)
        assert data.classes[int(truth.labels[-1])].name == "car"
    assert [len(sample.labels) for sample in data] == [3, 3, 3, 0]
    assert data[3].masks.shape == (0, 64, 96)


def test_panoptic(cityscapes_root: Path) -> None:
    data = load_dataset("cityscapes", root=cityscapes_root, task="panoptic")
    assert data.classes == cityscapes_classes()
    things = load_dataset("cityscapes", root=cityscapes_root)
    for index, name in enumerate(NAMES):
        numbers = instance_map(cityscapes_root, name)
        evaluated = np.isin(np.where(numbers < 1000, numbers, numbers // 1000), LABEL_IDS)
        truth, sample = data.ground_truth(index), data[index]
        np.testing.assert_array_equal(truth.masks.any(0).numpy(), evaluated)
        assert truth.crowd.sum() == 1 and (truth.masks.sum(0) <= 1).all()
        isthing = np.array([data.classes[k].isthing for k in sample.labels])
        np.testing.assert_array_equal(sample.masks[isthing], things[index].masks)
        assert set(sample.labels[~isthing].tolist()) == {0, 10}  # road and sky


def message(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_train_id_maps(copied: Path) -> None:
    for path in (copied / "cityscapes" / "gtFine").rglob("*_labelTrainIds.png"):
        path.unlink()
    text = message(lambda: load_dataset("cityscapes", root=copied, task="semantic"))
    assert "4 of 4" in text and "createTrainIdLabelImgs.py" in text
    assert str(copied / "cityscapes" / "gtFine" / "val") in text


def test_missing_panoptic_file(copied: Path) -> None:
    (copied / "cityscapes" / "gtFine" / "cityscapes_panoptic_val.json").unlink()
    text = message(lambda: load_dataset("cityscapes", root=copied, task="panoptic"))
    assert "cityscapes_panoptic_val.json" in text and "createPanopticImgs.py" in text


def test_missing_files(copied: Path, tmp_path: Path) -> None:
    for split in ("val", "test"):
        text = message(lambda split=split: load_dataset("cityscapes", root=tmp_path, split=split))
        assert "--root" in text and str(tmp_path / "cityscapes" / "leftImg8bit" / split) in text
    image = copied / "cityscapes" / "leftImg8bit" / "val" / f"{NAMES[2]}_leftImg8bit.png"
    image.unlink()
    for task in ("instance", "panoptic", "semantic"):
        text = message(lambda task=task: load_dataset("cityscapes", root=copied, task=task))
        assert f"{NAMES[2]}_leftImg8bit.png" in text
    png = copied / "cityscapes" / "gtFine" / "val" / f"{NAMES[0]}_gtFine_instanceIds.png"
    png.unlink()
    text = message(lambda: load_dataset("cityscapes", root=copied))
    assert "1 of 4" in text and f"{NAMES[0]}_gtFine_instanceIds.png" in text


def test_file_names_with_and_without_city_and_kind(copied: Path) -> None:
    path = copied / "cityscapes" / "gtFine" / "cityscapes_panoptic_val.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = "frankfurt_000000_000000_leftImg8bit.png"
    content["images"][1]["file_name"] = "frankfurt/frankfurt_000000_000001_leftImg8bit.png"
    path.write_text(json.dumps(content))
    data = load_dataset("cityscapes", root=copied, task="panoptic")
    assert [sample.file_name for sample in data] == [f"{name}_leftImg8bit.png" for name in NAMES]


@pytest.mark.parametrize("city", ["..", ".", ""])
def test_city_that_is_another_folder(copied: Path, city: str) -> None:
    path = copied / "cityscapes" / "gtFine" / "cityscapes_panoptic_val.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = f"{city}_000000_000000_leftImg8bit.png"
    path.write_text(json.dumps(content))
    text = message(lambda: load_dataset("cityscapes", root=copied, task="panoptic"))
    assert str(path) in text and "names no city; create the file again" in text
