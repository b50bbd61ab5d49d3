"""COCO, and data sets whose annotations are a COCO-format JSON file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mpdiag.choices import Task
from mpdiag.data.annotations import Annotations, OpenedSplit
from mpdiag.data.coco_file import CocoFile, read_coco_file
from mpdiag.data.coco_instances import CocoInstances
from mpdiag.data.coco_panoptic import CocoPanoptic
from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.files import require_instance_task, require_path, split_folder, split_names
from mpdiag.data.problems import ProblemHandler, raise_problem
from mpdiag.data.semantic_from_panoptic import SemanticFromPanoptic

FILE_PREFIX: dict[Task, str] = {
    "instance": "instances",
    "panoptic": "panoptic",
    "semantic": "panoptic",  # class masks are merged from panoptic segments
}
"""Prefix of the annotation file of each task."""

ROBOFLOW_FILE = "_annotations.coco.json"


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
        image_root: image folder, or candidates that together have the images.
        task: task to read, None for the kind of the annotations.
        name: name of the data set, by default the file's stem.
        split: split, for run directories.
        on_problem: called with each problem; by default the first one is raised.

    Raises:
        DataError: the file is missing, not COCO-format, or has no annotations for the task.
    """
    file = read_coco_file(annotation_file, on_problem)
    if annotation_file.name == ROBOFLOW_FILE:
        file = _without_groups(file)
    task = task or file.kind or "instance"
    return SegmentationDataset(
        _annotations(file, task, on_problem),
        image_root,
        task=task,
        name=name or annotation_file.stem,
        split=split,
        on_problem=on_problem,
    )


def coco_annotations(path: Path, task: Task, on_problem: ProblemHandler) -> Annotations:
    """Read a COCO-format file; see `coco_dataset`."""
    return _annotations(read_coco_file(path, on_problem), task, on_problem)


def open_coco(folder: Path, split: str, task: Task, on_problem: ProblemHandler) -> OpenedSplit:
    """Open COCO 2017; `folder` contains annotations/, train2017/ and val2017/."""
    path = require_path(
        folder / "annotations" / f"{FILE_PREFIX[task]}_{split}2017.json",
        f"annotations of COCO {split}",
        "set --root or $DETECTRON2_DATASETS to the folder that contains coco/",
    )
    return coco_annotations(path, task, on_problem), folder / f"{split}2017"


def open_coco_folder(
    folder: Path, split: str, task: Task, on_problem: ProblemHandler
) -> OpenedSplit:
    """Open a folder with annotations/KIND_SPLIT.json and images in a folder of the split."""
    path = require_path(
        folder / "annotations" / f"{FILE_PREFIX[task]}_{split}.json",
        f"annotations of split {split}",
        "choose another split or task",
    )
    own = split_names(split)
    names = (*own, *(f"images/{name}" for name in own), f"{split}2017", "images")
    images = [folder / name for name in names if (folder / name).is_dir()]
    return coco_annotations(path, task, on_problem), images or folder


def open_roboflow(folder: Path, split: str, task: Task, on_problem: ProblemHandler) -> OpenedSplit:
    """Open a folder with SPLIT/_annotations.coco.json and the images next to it.

    Categories that only group others, as exports of Roboflow have, are no classes.
    """
    require_instance_task(folder, task)
    images = split_folder(folder, split)
    file = read_coco_file(
        require_path(images / ROBOFLOW_FILE, f"annotations of split {split}", "export it again"),
        on_problem,
    )
    return CocoInstances(_without_groups(file), on_problem), images


def _without_groups(file: CocoFile) -> CocoFile:
    classes = [info for info in file.classes if info.category_id not in file.groups]
    label_of = {info.category_id: label for label, info in enumerate(classes)}
    return replace(file, classes=classes, label_of=label_of)


def _annotations(file: CocoFile, task: Task, on_problem: ProblemHandler) -> Annotations:
    if task == "instance":
        return CocoInstances(file, on_problem)
    stem = file.path.with_suffix("").name
    folders = [file.path.parent / stem, file.path.parent.parent / stem]
    panoptic = CocoPanoptic(file, folders, on_problem)
    return panoptic if task == "panoptic" else SemanticFromPanoptic(panoptic)
