"""COCO, and every data set whose annotations are a COCO-format JSON file."""

from collections.abc import Sequence
from pathlib import Path

from mpdiag.data.class_masks import ClassMasks
from mpdiag.data.coco_file import read_coco_file
from mpdiag.data.coco_instances import CocoInstances
from mpdiag.data.coco_panoptic import CocoPanoptic
from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.files import need
from mpdiag.data.problems import Report, refuse
from mpdiag.data.source import AnnotationSource, Task

FILE_PREFIX: dict[Task, str] = {
    "instance": "instances",
    "panoptic": "panoptic",
    "semantic": "panoptic",
}
"""Of the annotation file of each task; class masks are made of panoptic segments."""


def coco_dataset(
    annotation_file: Path,
    image_root: Path | Sequence[Path],
    *,
    task: Task | None = "instance",
    name: str | None = None,
    split: str = "",
    report: Report = refuse,
) -> SegmentationDataset:
    """Open a COCO-format file: instances_*.json, or panoptic_*.json with its PNGs.

    annotation_file  panoptic PNGs lie in the folder of its stem, beside it or one level up
    image_root       folder of the images; of several, the one that holds most of them is taken
    task             None for what the file holds

    DataError for a file that is missing, cut short, not COCO, inconsistent, or without what the
    task needs.
    """
    file = read_coco_file(annotation_file, report)
    task = task or file.holds or "instance"
    source: AnnotationSource
    if task == "instance":
        source = CocoInstances(file, report)
    else:
        stem = annotation_file.with_suffix("").name
        folders = [annotation_file.parent / stem, annotation_file.parent.parent / stem]
        panoptic = CocoPanoptic(file, folders, report)
        source = panoptic if task == "panoptic" else ClassMasks(panoptic)
    name = name or annotation_file.stem
    return SegmentationDataset(source, image_root, task=task, name=name, split=split, report=report)


def open_coco(folder: Path, split: str, task: Task, report: Report) -> SegmentationDataset:
    """COCO 2017 in its usual layout; `folder` holds annotations/, train2017/ and val2017/."""
    annotation_file = need(
        folder / "annotations" / f"{FILE_PREFIX[task]}_{split}2017.json",
        f"COCO {split}",
        "give the folder that holds coco/ with --root or $DETECTRON2_DATASETS",
    )
    images = folder / f"{split}2017"
    return coco_dataset(annotation_file, images, task=task, name="coco", split=split, report=report)
