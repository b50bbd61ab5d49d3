"""Data sets by name: where their files are looked for."""

import logging
import os
from pathlib import Path
from typing import get_args

from mpdiag.data.annotations import Task
from mpdiag.data.coco import CocoDataset
from mpdiag.data.synthetic import SYNTHETIC_SPLITS, generate
from mpdiag.errors import DataError

KNOWN_DATASETS = ("synthetic", "coco")
_PLANNED = ("ade20k", "cityscapes")
_FILE_PREFIX: dict[Task, str] = {"instance": "instances", "panoptic": "panoptic"}

_log = logging.getLogger(__name__)


def load_dataset(
    dataset: str, *, root: Path | str | None = None, split: str = "val", task: str = "instance"
) -> CocoDataset:
    """Open a data set: "coco", "synthetic", or the path of a COCO annotation file (*.json).

    root   folder that holds the data sets, or the images of an annotation file; by default
           $DETECTRON2_DATASETS, else ./datasets
    split  "train" or "val"
    task   "instance" or "panoptic"

    "synthetic" is generated with default settings where it is not there yet. DataError for an
    unknown name or task, and where files are missing.
    """
    if task not in get_args(Task):
        known = ", ".join(get_args(Task))
        raise DataError(f"task {task} can't be read from a COCO file: choose one of {known}")
    kind: Task = "panoptic" if task == "panoptic" else "instance"
    if dataset.endswith(".json"):
        return _annotation_file(Path(dataset), None if root is None else Path(root), split, kind)
    if dataset in _PLANNED:
        raise DataError(f"data set {dataset} can't be read yet: convert it to a COCO JSON file")
    base = Path(root or os.environ.get("DETECTRON2_DATASETS") or "datasets")
    if dataset == "coco":
        return _coco(base / "coco", split, kind)
    if dataset == "synthetic":
        return _synthetic(base / "synthetic", split, kind)
    raise DataError(
        f"there is no data set {dataset}: choose one of {', '.join(KNOWN_DATASETS)}, or give the"
        " path of a COCO annotation file that ends in .json"
    )


def _coco(folder: Path, split: str, task: Task) -> CocoDataset:
    annotation_file = folder / "annotations" / f"{_FILE_PREFIX[task]}_{split}2017.json"
    if not annotation_file.is_file():
        raise DataError(
            f"COCO {split} is not at {annotation_file}: give the folder that holds coco/ with"
            " --root or $DETECTRON2_DATASETS"
        )
    images = folder / f"{split}2017"
    return CocoDataset(annotation_file, images, task=task, name="coco", split=split)


def _synthetic(folder: Path, split: str, task: Task) -> CocoDataset:
    if split not in SYNTHETIC_SPLITS:
        known = " or ".join(SYNTHETIC_SPLITS)
        raise DataError(f"the synthetic data has no split {split}: choose {known}")
    if not folder.exists():
        _log.info("generating the synthetic data set in %s", folder)
        generate(folder)
    annotation_file = folder / "annotations" / f"{_FILE_PREFIX[task]}_{split}.json"
    if not annotation_file.is_file():
        raise DataError(
            f"the synthetic data in {folder} has no {annotation_file.name}: remove the folder to"
            " have it generated anew"
        )
    return CocoDataset(annotation_file, folder / split, task=task, name="synthetic", split=split)


def _annotation_file(path: Path, root: Path | None, split: str, task: Task) -> CocoDataset:
    """Images are looked for in the root and where COCO's and other tools' layouts have them."""
    folder = path.parent
    suffix = path.stem.partition("_")[2] or path.stem
    beside = [folder, folder / "images"]
    around = [folder.parent / name for name in (split, f"{split}2017", suffix, "images")]
    roots = list(dict.fromkeys([*([root] if root else []), *beside, *around]))
    return CocoDataset(path, roots, task=task, name=path.stem, split=split)
