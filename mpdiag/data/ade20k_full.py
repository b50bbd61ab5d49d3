"""ADE20K with all 847 classes (version 2021_17_01), prepared with the script of Mask2Former."""

from pathlib import Path

from mpdiag.choices import Task
from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.files import require_path
from mpdiag.data.label_maps import open_label_maps
from mpdiag.data.problems import ProblemHandler
from mpdiag.data.sample import ClassInfo
from mpdiag.errors import DataError

_SPLITS = {"train": "training", "val": "validation"}
_FIX = "create them with datasets/prepare_ade20k_full_sem_seg.py of Mask2Former"
_NUM_CLASSES = 847
_IGNORE = 65535  # the maps have 16 bits


def open_ade20k_full(
    folder: Path, split: str, task: Task, on_problem: ProblemHandler
) -> SegmentationDataset:
    """Open ADE20K-full; `folder` is ADE20K_2021_17_01. Classes are numbered and have no names.

    Raises:
        DataError: the split or the task is unknown, or files are missing.
    """
    if split not in _SPLITS:
        raise DataError(f"ADE20K-full has no split {split}; choose {' or '.join(_SPLITS)}")
    if task != "semantic":
        raise DataError(f"ADE20K-full has no {task} annotations; choose task semantic")
    images = require_path(
        folder / "images_detectron2" / _SPLITS[split], f"ADE20K-full {split}", _FIX
    )
    maps = require_path(
        folder / "annotations_detectron2" / _SPLITS[split],
        f"annotations of ADE20K-full {split}",
        _FIX,
    )
    classes = [ClassInfo(k, f"class {k}", isthing=False) for k in range(_NUM_CLASSES)]
    annotations = open_label_maps(images, maps, ".tif", classes, _FIX, on_problem, ignore=_IGNORE)
    return SegmentationDataset(
        annotations, images, task=task, name="ade20k-full", split=split, on_problem=on_problem
    )
