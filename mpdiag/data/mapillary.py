"""Mapillary Vistas 1.2, in the layout of its archive."""

import json
from pathlib import Path
from typing import Any

from mpdiag.choices import Task
from mpdiag.data.annotations import Annotations
from mpdiag.data.coco_file import read_coco_file
from mpdiag.data.coco_panoptic import CocoPanoptic
from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.files import require_path
from mpdiag.data.label_maps import open_label_maps
from mpdiag.data.problems import ProblemHandler
from mpdiag.data.sample import ClassInfo
from mpdiag.errors import DataError

_SPLITS = {"train": "training", "val": "validation"}
_ROOT = "set --root or $DETECTRON2_DATASETS to the folder that contains mapillary_vistas/"
_EXTRACT = "extract version 1.2 of the data set again"


def open_mapillary(
    folder: Path, split: str, task: Task, on_problem: ProblemHandler
) -> SegmentationDataset:
    """Open Mapillary Vistas; `folder` contains training/, validation/ and config.json.

    The 65 classes are the evaluated ones of config.json. The value 65 of a map is unlabelled.

    Raises:
        DataError: the split or the task is unknown, or files are missing.
    """
    if split not in _SPLITS:
        raise DataError(f"Mapillary Vistas has no split {split}; choose {' or '.join(_SPLITS)}")
    if task == "instance":
        raise DataError(
            "Mapillary Vistas has no instance annotations; choose task panoptic or semantic"
        )
    what = f"Mapillary Vistas {split}"
    images = require_path(folder / _SPLITS[split] / "images", what, _ROOT)
    annotations: Annotations
    if task == "panoptic":
        pngs = folder / _SPLITS[split] / "panoptic"
        path = require_path(
            pngs / "panoptic_2018.json", f"panoptic annotations of {what}", _EXTRACT
        )
        annotations = CocoPanoptic(read_coco_file(path, on_problem), [pngs], on_problem)
    else:
        maps = require_path(folder / _SPLITS[split] / "labels", f"annotations of {what}", _EXTRACT)
        classes = _classes(
            require_path(folder / "config.json", "classes of Mapillary Vistas", _EXTRACT)
        )
        annotations = open_label_maps(
            images, maps, ".png", classes, _EXTRACT, on_problem, ignore=len(classes)
        )
    return SegmentationDataset(
        annotations, images, task=task, name="mapillary", split=split, on_problem=on_problem
    )


def _classes(path: Path) -> list[ClassInfo]:
    try:
        labels: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["labels"]
        return [
            ClassInfo(number, str(label["readable"]), bool(label["instances"]))
            for number, label in enumerate(labels)
            if label["evaluate"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: does not list the classes ({reason}); {_EXTRACT}") from None
