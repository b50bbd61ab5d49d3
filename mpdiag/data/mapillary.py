"""Mapillary Vistas, version 1.2, as it is unpacked."""

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
_ROOT = "give the folder that holds mapillary_vistas/ with --root or $DETECTRON2_DATASETS"
_UNPACK = "unpack version 1.2 of the data set anew"


def open_mapillary(
    folder: Path, split: str, task: Task, on_problem: ProblemHandler
) -> SegmentationDataset:
    """Open the data set; `folder` holds training/, validation/ and config.json.

    The 65 classes are those of config.json that are evaluated; the number after them is "none".
    """
    if split not in _SPLITS:
        raise DataError(f"Mapillary Vistas has no split {split}: choose {' or '.join(_SPLITS)}")
    what = f"Mapillary Vistas {split}"
    images = require_path(folder / _SPLITS[split] / "images", what, _ROOT)
    annotations: Annotations
    if task == "panoptic":
        pngs = folder / _SPLITS[split] / "panoptic"
        path = require_path(
            pngs / "panoptic_2018.json", f"the panoptic annotation of {what}", _UNPACK
        )
        annotations = CocoPanoptic(read_coco_file(path, on_problem), [pngs], on_problem)
    elif task == "semantic":
        path = require_path(
            folder / _SPLITS[split] / "labels", f"the annotation of {what}", _UNPACK
        )
        classes = _classes(
            require_path(folder / "config.json", "the classes of Mapillary Vistas", _UNPACK)
        )
        ignore = len(classes)
        annotations = open_label_maps(
            images, path, ".png", classes, _UNPACK, on_problem, ignore=ignore
        )
    else:
        raise DataError(f"Mapillary Vistas has panoptic and semantic annotations, not {task} ones")
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
        raise DataError(f"{path} does not list the classes ({reason}): {_UNPACK}") from None
