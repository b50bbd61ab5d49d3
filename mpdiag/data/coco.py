"""COCO, and data sets whose annotations are a COCO-format JSON file."""

from collections.abc import Sequence
from pathlib import Path

from mpdiag.choices import Task
from mpdiag.data.annotations import Annotations
from mpdiag.data.coco_file import read_coco_file
from mpdiag.data.coco_instances import CocoInstances
from mpdiag.data.coco_panoptic import CocoPanoptic
from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.files import require_path
from mpdiag.data.problems import ProblemHandler, raise_problem
from mpdiag.data.semantic_from_panoptic import SemanticFromPanoptic

FILE_PREFIX: dict[Task, str] = {
    "instance": "instances",
    "panoptic": "panoptic",
    "semantic": "panoptic",  # class masks are merged from panoptic segments
}
"""Prefix of the annotation file of each task."""


def coco_dataset(
    annotation_file: Path,
    image_root: Path | Sequence[Path],
    *,
    task: Task | None = "instance",
    name: str | None = None,
    split: str = "",
    on_problem: ProblemHandler = raise_problem,
) -> SegmentationDataset:
    """Open a COCO-format file: instances_*.json, or panoptic_*.json with its PNGs.

    Args:
        annotation_file: the JSON file. Panoptic PNGs are in a folder with the file's stem, next to
            the file or one level up.
        image_root: image folder, or candidates of which the one with most images is used.
        task: task to read, None for the kind of the annotations.
        name: name of the data set, by default the file's stem.
        split: split, for run directories.
        on_problem: called with each problem; by default the first one is raised.

    Raises:
        DataError: the file is missing, not COCO-format, or has no annotations for the task.
    """
    file = read_coco_file(annotation_file, on_problem)
    task = task or file.kind or "instance"
    annotations: Annotations
    if task == "instance":
        annotations = CocoInstances(file, on_problem)
    else:
        stem = annotation_file.with_suffix("").name
        folders = [annotation_file.parent / stem, annotation_file.parent.parent / stem]
        panoptic = CocoPanoptic(file, folders, on_problem)
        annotations = panoptic if task == "panoptic" else SemanticFromPanoptic(panoptic)
    name = name or annotation_file.stem
    return SegmentationDataset(
        annotations, image_root, task=task, name=name, split=split, on_problem=on_problem
    )


def open_coco(
    folder: Path, split: str, task: Task, on_problem: ProblemHandler
) -> SegmentationDataset:
    """Open COCO 2017; `folder` contains annotations/, train2017/ and val2017/.

    Raises:
        DataError: files are missing.
    """
    annotation_file = require_path(
        folder / "annotations" / f"{FILE_PREFIX[task]}_{split}2017.json",
        f"annotations of COCO {split}",
        "set --root or $DETECTRON2_DATASETS to the folder that contains coco/",
    )
    images = folder / f"{split}2017"
    return coco_dataset(
        annotation_file, images, task=task, name="coco", split=split, on_problem=on_problem
    )
