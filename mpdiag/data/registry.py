"""Data sets by name or by annotation file."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast, get_args

from mpdiag.data.ade20k import open_ade20k
from mpdiag.data.cityscapes import open_cityscapes
from mpdiag.data.coco import FILE_PREFIX, coco_dataset, open_coco
from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.problems import Report, refuse
from mpdiag.data.source import Task
from mpdiag.data.synthetic import SYNTHETIC_SPLITS, generate
from mpdiag.errors import DataError

_log = logging.getLogger(__name__)


def load_dataset(
    dataset: str,
    *,
    root: Path | str | None = None,
    split: str = "val",
    task: str = "instance",
    report: Report = refuse,
) -> SegmentationDataset:
    """Open a data set by its name (KNOWN_DATASETS), or the path of a COCO-format file (*.json).

    root    folder that holds the data sets, or the images of an annotation file; by default
            $DETECTRON2_DATASETS, else ./datasets
    split   "train" or "val"
    task    "instance", "panoptic" or "semantic"
    report  what is done with what is wrong; by default the first problem is raised

    "synthetic" is generated with default settings where it is not there yet. DataError for an
    unknown name or task, and where files are missing.
    """
    if task not in get_args(Task):
        known = ", ".join(get_args(Task))
        raise DataError(f"there is no task {task}: choose one of {known}")
    kind = cast(Task, task)
    if dataset.endswith(".json"):
        path = Path(dataset)
        return _annotation_file(path, None if root is None else Path(root), split, kind, report)
    if dataset not in _OPENERS:
        raise DataError(
            f"there is no data set {dataset}: choose one of {', '.join(KNOWN_DATASETS)}, or give"
            " the path of a COCO-format file that ends in .json"
        )
    base = Path(root or os.environ.get("DETECTRON2_DATASETS") or "datasets")
    folder, opener = _OPENERS[dataset]
    return opener(base / folder, split, kind, report)


def _open_synthetic(folder: Path, split: str, task: Task, report: Report) -> SegmentationDataset:
    if split not in SYNTHETIC_SPLITS:
        known = " or ".join(SYNTHETIC_SPLITS)
        raise DataError(f"the synthetic data has no split {split}: choose {known}")
    if not folder.exists():
        _log.info("generating the synthetic data set in %s", folder)
        generate(folder)
    annotation_file = folder / "annotations" / f"{FILE_PREFIX[task]}_{split}.json"
    if not annotation_file.is_file():
        raise DataError(
            f"the synthetic data in {folder} has no {annotation_file.name}: remove the folder to"
            " have it generated anew"
        )
    return coco_dataset(
        annotation_file, folder / split, task=task, name="synthetic", split=split, report=report
    )


def _annotation_file(
    path: Path, root: Path | None, split: str, task: Task, report: Report
) -> SegmentationDataset:
    """Images are looked for in the root and where COCO's and other tools' layouts have them."""
    folder = path.parent
    suffix = path.stem.partition("_")[2] or path.stem
    beside = [folder, folder / "images"]
    around = [folder.parent / name for name in (split, f"{split}2017", suffix, "images")]
    roots = list(dict.fromkeys([*([root] if root else []), *beside, *around]))
    return coco_dataset(path, roots, task=task, name=path.stem, split=split, report=report)


_OPENERS: dict[str, tuple[str, Callable[[Path, str, Task, Report], SegmentationDataset]]] = {
    "synthetic": ("synthetic", _open_synthetic),
    "coco": ("coco", open_coco),
    "ade20k": ("ADEChallengeData2016", open_ade20k),
    "cityscapes": ("cityscapes", open_cityscapes),
}
"""The folder of each data set under the root, as detectron2 names it, and what opens it."""

KNOWN_DATASETS = tuple(_OPENERS)
