"""COCO, and every data set whose annotations are a COCO-format JSON file."""

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
    on_problem: ProblemHandler = raise_problem,
) -> SegmentationDataset:
    """Open a COCO-format file: instances_*.json, or panoptic_*.json with its PNGs.

    annotation_file  panoptic PNGs lie in the folder of its stem, beside it or one level up
    image_root       folder of the images; of several, the one that holds most of them is taken
    task             None for what the file holds

    DataError for a file that is missing, cut short, not COCO, inconsistent, or without what the
    task needs.
    """
    file = read_coco_file(annotation_file, on_problem)
    task = task or file.holds or "instance"
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
    """COCO 2017 in its usual layout; `folder` holds annotations/, train2017/ and val2017/."""
    annotation_file = require_path(
        folder / "annotations" / f"{FILE_PREFIX[task]}_{split}2017.json",
        f"COCO {split}",
        "give the folder that holds coco/ with --root or $DETECTRON2_DATASETS",
    )
    images = folder / f"{split}2017"
    return coco_dataset(
        annotation_file, images, task=task, name="coco", split=split, on_problem=on_problem
    )
