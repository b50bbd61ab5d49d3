"""ADE20K with all its classes (version 2021_17_01), as Mask2Former's script prepares it."""

from pathlib import Path

from mpdiag.choices import Task
from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.files import require_path
from mpdiag.data.label_maps import open_label_maps
from mpdiag.data.problems import ProblemHandler
from mpdiag.data.sample import ClassInfo
from mpdiag.errors import DataError

_SPLITS = {"train": "training", "val": "validation"}
_SCRIPT = "prepare_ade20k_full_sem_seg.py"
_NUM_CLASSES = 847
_IGNORE = 65535  # the maps have 16 bits


def open_ade20k_full(
    folder: Path, split: str, task: Task, on_problem: ProblemHandler
) -> SegmentationDataset:
    """Open the data set; `folder` is ADE20K_2021_17_01. Its maps number classes, and name none."""
    if split not in _SPLITS:
        raise DataError(f"ADE20K has no split {split}: choose {' or '.join(_SPLITS)}")
    if task != "semantic":
        raise DataError(f"ADE20K-full has semantic annotations only, not {task} ones")
    fix = f"make it with datasets/{_SCRIPT} of Mask2Former"
    images = require_path(
        folder / "images_detectron2" / _SPLITS[split], f"ADE20K-full {split}", fix
    )
    path = require_path(
        folder / "annotations_detectron2" / _SPLITS[split],
        f"the annotation of ADE20K-full {split}",
        fix,
    )
    classes = [ClassInfo(k, f"class {k}", isthing=False) for k in range(_NUM_CLASSES)]
    annotations = open_label_maps(images, path, ".tif", classes, fix, on_problem, ignore=_IGNORE)
    return SegmentationDataset(
        annotations, images, task=task, name="ade20k-full", split=split, on_problem=on_problem
    )
