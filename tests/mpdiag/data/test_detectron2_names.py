"""detectron2 names: data set, split and task of each, and contradicting options."""

from pathlib import Path

import numpy as np
import pytest

from mpdiag.data import DETECTRON2_NAMES, load_dataset
from mpdiag.errors import DataError


def test_names_of_the_official_configurations_are_known() -> None:
    """DATASETS.TRAIN and .TEST in both repositories."""
    names = {
        "ade20k_instance_{}", "ade20k_panoptic_{}", "ade20k_sem_seg_{}", "ade20k_full_sem_seg_{}",
        "cityscapes_fine_instance_seg_{}", "cityscapes_fine_panoptic_{}",
        "cityscapes_fine_sem_seg_{}", "coco_2017_{}", "coco_2017_{}_panoptic",
        "coco_2017_{}_panoptic_with_sem_seg", "mapillary_vistas_panoptic_{}",
        "mapillary_vistas_sem_seg_{}",
    }  # fmt: skip
    assert set(DETECTRON2_NAMES) == {
        name.format(split) for name in names for split in ("train", "val")
    }


@pytest.mark.parametrize(
    "name, data, split, task, classes",
    [
        ("ade20k_sem_seg_train", "ade20k", "train", "semantic", 150),
        ("ade20k_instance_val", "ade20k", "val", "instance", 100),
        ("ade20k_panoptic_val", "ade20k", "val", "panoptic", 150),
        ("cityscapes_fine_instance_seg_val", "cityscapes", "val", "instance", 8),
        ("cityscapes_fine_sem_seg_train", "cityscapes", "train", "semantic", 19),
        ("cityscapes_fine_panoptic_train", "cityscapes", "train", "panoptic", 19),
    ],
)
def test_name_opens_its_split_and_task(
    name: str, data: str, split: str, task: str, classes: int, ade20k_root: Path,
    cityscapes_root: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    root = ade20k_root if data == "ade20k" else cityscapes_root
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    opened = load_dataset(name)
    expected = load_dataset(data, root=root, split=split, task=task)
    assert opened.describe() == expected.describe()
    assert (opened.split, opened.task, len(opened.classes)) == (split, task, classes)
    assert len(opened) == len(expected) > 0
    np.testing.assert_array_equal(opened[0].masks, expected[0].masks)


def test_options_that_contradict_a_name(ade20k_root: Path) -> None:
    assert load_dataset(
        "ade20k_panoptic_val", root=ade20k_root, split="val", task="panoptic"
    )  # equal values are accepted
    with pytest.raises(DataError, match=r"is ade20k, split train, .* not split val"):
        load_dataset("ade20k_panoptic_train", root=ade20k_root, split="val")
    with pytest.raises(DataError, match="not task instance; choose task panoptic"):
        load_dataset("ade20k_panoptic_val", root=ade20k_root, task="instance")


def test_unsupported_name_lists_supported_names(tmp_path: Path) -> None:
    for name in ("lvis_v1_val", "coco_2014_minival", "voc_2007_test", "coco_2017_val_stuffonly"):
        with pytest.raises(
            DataError, match=rf"{name}: unknown data set; .*coco_2017_\{{train,val\}}, "
        ):
            load_dataset(name, root=tmp_path)
