"""Mapillary Vistas 1.2, in the layout of its archive."""

from pathlib import Path
from typing import Any

from mpdiag.choices import Task
from mpdiag.data.annotations import OpenedSplit
from mpdiag.data.coco_file import read_coco_file
from mpdiag.data.coco_panoptic import CocoPanoptic
from mpdiag.data.files import require_path, training_or_validation
from mpdiag.data.label_maps import open_label_maps
from mpdiag.data.problems import ProblemHandler
from mpdiag.data.sample import ClassInfo
from mpdiag.errors import DataError
from mpdiag.untrusted import read_json

_ROOT = "set --root or $DETECTRON2_DATASETS to the folder that contains mapillary_vistas/"
_EXTRACT = "extract version 1.2 of the data set again"


def open_mapillary(folder: Path, split: str, task: Task, on_problem: ProblemHandler) -> OpenedSplit:
    """Open Mapillary Vistas; `folder` contains training/, validation/ and config.json.

    The 65 classes are the evaluated ones of config.json. The value 65 of a map is unlabelled.
    """
    files = folder / training_or_validation("Mapillary Vistas", split)
    if task == "instance":
        raise DataError(
            "Mapillary Vistas has no instance annotations; choose task panoptic or semantic"
        )
    what = f"Mapillary Vistas {split}"
    images = require_path(files / "images", what, _ROOT)
    what = f"{task} annotations of {what}"
    if task == "panoptic":
        path = require_path(files / "panoptic" / "panoptic_2018.json", what, _EXTRACT)
        file = read_coco_file(path, on_problem)
        return CocoPanoptic(file, [path.parent], on_problem), images
    maps = require_path(files / "labels", what, _EXTRACT)
    classes = _classes(require_path(folder / "config.json", what, _EXTRACT))
    ignore = len(classes)
    return open_label_maps(images, maps, ".png", classes, _EXTRACT, on_problem, ignore), images


def _classes(path: Path) -> list[ClassInfo]:
    try:
        labels: list[dict[str, Any]] = read_json(path)["labels"]
        return [
            ClassInfo(number, str(label["readable"]), bool(label["instances"]))
            for number, label in enumerate(labels)
            if label["evaluate"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: does not list the classes ({reason}); {_EXTRACT}") from None
