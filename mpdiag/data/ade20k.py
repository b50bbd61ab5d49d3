"""ADE20K with 150 classes (2016) and with all 847, prepared with the scripts of Mask2Former."""

from pathlib import Path

from mpdiag.choices import Task
from mpdiag.data.annotations import OpenedSplit
from mpdiag.data.class_lists import ade20k_classes
from mpdiag.data.coco import coco_annotations
from mpdiag.data.files import require_path, training_or_validation
from mpdiag.data.label_maps import open_label_maps
from mpdiag.data.problems import ProblemHandler
from mpdiag.data.sample import ClassInfo
from mpdiag.errors import DataError

_SCRIPTS: dict[Task, str] = {
    "instance": "prepare_ade20k_ins_seg.py",
    "panoptic": "prepare_ade20k_pan_seg.py",
    "semantic": "prepare_ade20k_sem_seg.py",
}
_FULL_NUM_CLASSES = 847
_FULL_IGNORE = 65535  # the maps have 16 bits


def open_ade20k(folder: Path, split: str, task: Task, on_problem: ProblemHandler) -> OpenedSplit:
    """Open ADE20K (scene parsing challenge 2016); `folder` is ADEChallengeData2016."""
    subfolder = training_or_validation("ADE20K", split)
    images = require_path(
        folder / "images" / subfolder,
        f"ADE20K {split}",
        "set --root or $DETECTRON2_DATASETS to the folder that contains ADEChallengeData2016/",
    )
    what = f"{task} annotations of ADE20K {split}"
    fix = f"create them with datasets/{_SCRIPTS[task]} of Mask2Former"
    if task != "semantic":
        file = require_path(folder / f"ade20k_{task}_{split}.json", what, fix)
        return coco_annotations(file, task, on_problem), images
    maps = require_path(folder / "annotations_detectron2" / subfolder, what, fix)
    return open_label_maps(images, maps, ".png", ade20k_classes(), fix, on_problem), images


def open_ade20k_full(
    folder: Path, split: str, task: Task, on_problem: ProblemHandler
) -> OpenedSplit:
    """Open ADE20K-full; `folder` is ADE20K_2021_17_01. Classes are numbered and have no names."""
    subfolder = training_or_validation("ADE20K-full", split)
    if task != "semantic":
        raise DataError(f"ADE20K-full has no {task} annotations; choose task semantic")
    what = f"annotations of ADE20K-full {split}"
    fix = "create them with datasets/prepare_ade20k_full_sem_seg.py of Mask2Former"
    images = require_path(folder / "images_detectron2" / subfolder, what, fix)
    maps = require_path(folder / "annotations_detectron2" / subfolder, what, fix)
    classes = [ClassInfo(k, f"class {k}", isthing=False) for k in range(_FULL_NUM_CLASSES)]
    return open_label_maps(images, maps, ".tif", classes, fix, on_problem, _FULL_IGNORE), images
