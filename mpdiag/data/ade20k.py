"""ADE20K (the scene parsing challenge of 2016) as Mask2Former's scripts prepare it."""

from pathlib import Path

from mpdiag.data.coco import coco_dataset
from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.files import need
from mpdiag.data.label_maps import paired_maps
from mpdiag.data.label_tables import ade20k_classes
from mpdiag.data.problems import Report
from mpdiag.data.source import Task
from mpdiag.errors import DataError

_SPLITS = {"train": "training", "val": "validation"}
_SCRIPTS: dict[Task, str] = {
    "instance": "prepare_ade20k_ins_seg.py",
    "panoptic": "prepare_ade20k_pan_seg.py",
    "semantic": "prepare_ade20k_sem_seg.py",
}


def open_ade20k(folder: Path, split: str, task: Task, report: Report) -> SegmentationDataset:
    """Open the data set; `folder` is ADEChallengeData2016, which holds images/."""
    if split not in _SPLITS:
        raise DataError(f"ADE20K has no split {split}: choose {' or '.join(_SPLITS)}")
    images = need(
        folder / "images" / _SPLITS[split],
        f"ADE20K {split}",
        "give the folder that holds ADEChallengeData2016/ with --root or $DETECTRON2_DATASETS",
    )
    what = f"the {task} annotation of ADE20K {split}"
    mend = f"make it with datasets/{_SCRIPTS[task]} of Mask2Former"
    if task != "semantic":
        annotation_file = need(folder / f"ade20k_{task}_{split}.json", what, mend)
        return coco_dataset(
            annotation_file, images, task=task, name="ade20k", split=split, report=report
        )
    path = need(folder / "annotations_detectron2" / _SPLITS[split], what, mend)
    source = paired_maps(images, path, ".png", ade20k_classes(), mend, report)
    return SegmentationDataset(source, images, task=task, name="ade20k", split=split, report=report)
