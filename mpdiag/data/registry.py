"""Open data sets by name, by folder or by annotation file."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from mpdiag.choices import Task
from mpdiag.config import DataConfig, DataSource
from mpdiag.data.ade20k import open_ade20k, open_ade20k_full
from mpdiag.data.annotations import OpenedSplit
from mpdiag.data.cityscapes import open_cityscapes
from mpdiag.data.coco import (
    FILE_PREFIX,
    ROBOFLOW_FILE,
    coco_annotations,
    coco_dataset,
    open_coco,
    open_coco_folder,
    open_roboflow,
)
from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.detectron2_catalog import open_catalog_dataset
from mpdiag.data.detectron2_names import DETECTRON2_NAMES, similar_names
from mpdiag.data.image_folder import METADATA, open_image_folder
from mpdiag.data.mapillary import open_mapillary
from mpdiag.data.mask_files import open_mask_files
from mpdiag.data.problems import ProblemHandler, raise_problem
from mpdiag.data.synthetic import SYNTHETIC_SPLITS, generate_synthetic
from mpdiag.data.yolo import open_yolo
from mpdiag.errors import ConfigError, DataError

_log = logging.getLogger(__name__)


def load_dataset(
    dataset: str,
    *,
    root: Path | str | None = None,
    split: str | None = None,
    task: str | None = None,
    on_problem: ProblemHandler = raise_problem,
) -> SegmentationDataset:
    """Open a data set.

    Args:
        dataset: name (KNOWN_DATASETS), folder of a data set, folder in `root`, COCO-format file
            (*.json), detectron2 name (DETECTRON2_NAMES), or NAME or MODULE:NAME of a data set that
            is registered in detectron2. "synthetic" is generated with default settings if it does
            not exist.
        root: folder that contains the data sets, or the images of an annotation file; by default
            $DETECTRON2_DATASETS, else ./datasets.
        split: "train" or "val"; by default the split of a detectron2 name, else "val".
        task: "instance", "panoptic" or "semantic"; by default the task of a detectron2 name or of
            the annotations of a file, else "instance".
        on_problem: called with each problem; by default the first one is raised.

    Raises:
        DataError: the name or the task is unknown, split or task contradict the name, or files are
            missing.
    """
    if task is not None and task not in get_args(Task):
        raise DataError(f"unknown task {task}; choose one of {', '.join(get_args(Task))}")
    kind = cast(Task | None, task)
    if dataset in DETECTRON2_NAMES:
        dataset, split, kind = _resolve_detectron2_name(dataset, split, kind)
    split = split or "val"
    if dataset.endswith(".json"):
        path = Path(dataset)
        return _annotation_file(path, None if root is None else Path(root), split, kind, on_problem)
    if dataset in _LAYOUTS:
        layout = _LAYOUTS[dataset]
        name, folder = dataset, Path(root or default_root()) / layout.folder
    elif (found_folder := find_folder(dataset, root)) is not None:
        folder = found_folder
        name, layout = _detect_layout(folder)
    elif found := open_catalog_dataset(dataset, kind, on_problem):
        return found
    else:
        raise _unknown(dataset, "unknown data set")
    kind = kind or "instance"
    annotations, images = layout.open(folder, split, kind, on_problem)
    return SegmentationDataset(
        annotations, images, task=kind, name=name, split=split, on_problem=on_problem
    )


def load_held_out(data: DataConfig) -> SegmentationDataset:
    """Open the held-out images of a training.

    Raises:
        ConfigError: as for `held_out_source`.
        DataError: as for `load_dataset`.
    """
    return load_dataset(**held_out_source(data)._asdict())


def held_out_source(data: DataConfig) -> DataSource:
    """Return the held-out images of a training.

    Raises:
        ConfigError: the settings name none. Without `val_dataset`, a file or a name of detectron2
            has the training images only.
    """
    source = data.held_out
    has_splits = source.dataset in KNOWN_DATASETS or find_folder(source.dataset, source.root)
    if data.val_dataset is None and not has_splits:
        raise ConfigError(
            f"data.dataset = {source.dataset}: has no held-out images; set data.val_dataset=FILE "
            "or NAME, or evaluate_every=null layer_metrics_every=null to train without evaluation"
        )
    return source


def _resolve_detectron2_name(
    name: str, split: str | None, task: Task | None
) -> tuple[str, str, Task]:
    """Return data set, split and task of a detectron2 name, and check the given split and task."""
    named = DETECTRON2_NAMES[name]
    for what, given, expected in (("split", split, named.split), ("task", task, named.task)):
        if given not in (None, expected):
            raise DataError(
                f"{name}: is {named.dataset}, split {named.split}, task {named.task}, not {what} "
                f"{given}; choose {what} {expected} or another name"
            )
    return named.dataset, named.split, named.task


def default_root() -> Path:
    """Return the folder of the data sets: $DETECTRON2_DATASETS, else ./datasets."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets")


def find_folder(dataset: str, root: Path | str | None) -> Path | None:
    """Return the folder that `dataset` names: a path, or for a plain name a folder in `root`."""
    path, in_root = Path(dataset), Path(root or default_root()) / dataset
    if path.name == dataset and in_root.is_dir():
        return in_root
    return path if path.is_dir() else None


def imports_module(dataset: str, root: Path | str | None) -> bool:
    """Return whether opening this data set imports a module: it is MODULE:NAME, no file or folder.

    Only a user may give such a name, not a file.
    """
    is_file = dataset.endswith(".json") or find_folder(dataset, root) is not None
    return ":" in dataset and not is_file


def find_datasets(root: Path) -> dict[str, Path | None]:
    """Return the folder of each known data set under the root, None if it is not found."""
    folders = {name: root / layout.folder for name, layout in _LAYOUTS.items()}
    return {
        name: folder if _LAYOUTS[name].matches(folder) else None for name, folder in folders.items()
    }


@dataclass(frozen=True, slots=True)
class _Layout:
    """Folder name in detectron2, files that identify the data set, and the function to open it."""

    folder: str
    markers: tuple[str, ...]
    open: Callable[[Path, str, Task, ProblemHandler], OpenedSplit]

    def matches(self, folder: Path) -> bool:
        return any(any(folder.glob(marker)) for marker in self.markers)


def _detect_layout(folder: Path) -> tuple[str, _Layout]:
    """Return name and layout of the data set in a folder, detected from its files."""
    for name, layout in _LAYOUTS.items():
        if layout.matches(folder):
            return name, layout
    for layout in _FOLDER_LAYOUTS:
        if layout.matches(folder):
            return folder.absolute().name, layout
    raise _unknown(str(folder), "not the folder of a known data set")


def _unknown(dataset: str, what: str) -> DataError:
    known = similar_names(dataset) or ", ".join(KNOWN_DATASETS)
    return DataError(
        f"{dataset}: {what}; choose one of {known}, the folder of a data set, or a COCO-format "
        ".json file"
    )


def _open_synthetic(
    folder: Path, split: str, task: Task, on_problem: ProblemHandler
) -> OpenedSplit:
    if split not in SYNTHETIC_SPLITS:
        known = " or ".join(SYNTHETIC_SPLITS)
        raise DataError(f"the synthetic data set has no split {split}; choose {known}")
    if not folder.exists():
        _log.info("generating the synthetic data set in %s", folder)
        generate_synthetic(folder)
    annotation_file = folder / "annotations" / f"{FILE_PREFIX[task]}_{split}.json"
    if not annotation_file.is_file():
        raise DataError(
            f"{annotation_file}: not found; delete {folder} to generate the data set again"
        )
    return coco_annotations(annotation_file, task, on_problem), folder / split


def _annotation_file(
    path: Path, root: Path | None, split: str, task: Task | None, on_problem: ProblemHandler
) -> SegmentationDataset:
    """Open an annotation file; search its images in the root and in common layouts around it."""
    folder = path.parent
    suffix = path.stem.partition("_")[2] or path.stem
    siblings = [folder.parent / name for name in (split, f"{split}2017", suffix, "images")]
    candidates = [*([root] if root else []), folder, folder / "images", *siblings]
    roots = list(dict.fromkeys(candidates))
    return coco_dataset(path, roots, task=task, name=path.stem, split=split, on_problem=on_problem)


def _in_splits(pattern: str) -> tuple[str, str]:
    return pattern.format("training"), pattern.format("validation")


# Markers are annotations, because folders of images with these names occur in other layouts too.
_LAYOUTS = {
    "synthetic": _Layout("synthetic", ("synthetic.json",), _open_synthetic),
    "coco": _Layout("coco", ("annotations/*_*2017.json",), open_coco),
    # Before ade20k, since both have annotations_detectron2.
    "ade20k-full": _Layout(
        "ADE20K_2021_17_01",
        _in_splits("images_detectron2/{}"),
        open_ade20k_full,
    ),
    "ade20k": _Layout(
        "ADEChallengeData2016",
        ("ade20k_*.json", "annotations_detectron2", *_in_splits("annotations/{}")),
        open_ade20k,
    ),
    "cityscapes": _Layout("cityscapes", ("leftImg8bit", "gtFine"), open_cityscapes),
    "mapillary": _Layout(
        "mapillary_vistas",
        (*_in_splits("{}/panoptic"), *_in_splits("{}/instances")),
        open_mapillary,
    ),
}

# Layouts of data sets without a name of their own; the first that matches is used.
_FOLDER_LAYOUTS = (
    _Layout("", ("annotations/*_train.json", "annotations/*_val.json"), open_coco_folder),
    _Layout("", (f"*/{ROBOFLOW_FILE}",), open_roboflow),
    _Layout("", ("data.yaml",), open_yolo),
    _Layout("", (f"*/{METADATA}",), open_image_folder),
    _Layout("", ("*/masks/*/*", "*/*/masks/*"), open_mask_files),
)

KNOWN_DATASETS = tuple(_LAYOUTS)
