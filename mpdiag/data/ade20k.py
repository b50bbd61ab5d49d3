"""ADE20K (scene parsing challenge 2016), prepared with the scripts of Mask2Former."""

from pathlib import Path

from mpdiag.choices import Task
from mpdiag.data.class_lists import ade20k_classes
from mpdiag.data.coco import coco_dataset
from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.files import require_path
from mpdiag.data.label_maps import open_label_maps
from mpdiag.data.problems import ProblemHandler
from mpdiag.errors import DataError

_SPLITS = {"train": "training", "val": "validation"}
_SCRIPTS: dict[Task, str] = {
    "instance": "prepare_ade20k_ins_seg.py",
    "panoptic": "prepare_ade20k_pan_seg.py",
    "semantic": "prepare_ade20k_sem_seg.py",
}


def open_ade20k(
    folder: Path, split: str, task: Task, on_problem: ProblemHandler
) -> SegmentationDataset:
    """Open ADE20K; `folder` is ADEChallengeData2016.

    Raises:
        DataError: the split is unknown, or files are missing.
    """
    if split not in _SPLITS:
        raise DataError(f"ADE20K has no split {split}; choose {' or '.join(_SPLITS)}")
    images = require_path(
        folder / "images" / _SPLITS[split],
        f"ADE20K {split}",
        "set --root or $DETECTRON2_DATASETS to the folder that contains ADEChallengeData2016/",
    )
    what = f"{task} annotations of ADE20K {split}"
    fix = f"create them with datasets/{_SCRIPTS[task]} of Mask2Former"
    if task != "semantic":
        file = require_path(folder / f"ade20k_{task}_{split}.json", what, fix)
        return coco_dataset(
            file, images, task=task, name="ade20k", split=split, on_problem=on_problem
        )
    maps = require_path(folder / "annotations_detectron2" / _SPLITS[split], what, fix)
    annotations = open_label_maps(images, maps, ".png", ade20k_classes(), fix, on_problem)
    return SegmentationDataset(
        annotations, images, task=task, name="ade20k", split=split, on_problem=on_problem
    )
