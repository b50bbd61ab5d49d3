"""Data sets by name, by folder or by annotation file."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from mpdiag.data.ade20k import open_ade20k
from mpdiag.data.ade20k_full import open_ade20k_full
from mpdiag.choices import Task
from mpdiag.data.cityscapes import open_cityscapes
from mpdiag.data.coco import FILE_PREFIX, coco_dataset, open_coco
from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.detectron2_catalog import open_catalog_dataset
from mpdiag.data.detectron2_names import DETECTRON2_NAMES, similar_names
from mpdiag.data.mapillary import open_mapillary
from mpdiag.data.problems import ProblemHandler, raise_problem
from mpdiag.data.synthetic import SYNTHETIC_SPLITS, generate_synthetic
from mpdiag.errors import DataError

_log = logging.getLogger(__name__)


def load_dataset(
    dataset: str,
    *,
    root: Path | str | None = None,
    split: str | None = None,
    task: str | None = None,
    on_problem: ProblemHandler = raise_problem,
) -> SegmentationDataset:
    """Open a data set by its name (KNOWN_DATASETS) or folder, or a COCO-format file (*.json).

    One of detectron2's names (DETECTRON2_NAMES) says split and task, too, as does any other that is
    registered in its catalogs, NAME or MODULE:NAME (`mpdiag.data.detectron2_catalog`).

    root    folder that holds the data sets, or the images of an annotation file; by default
            $DETECTRON2_DATASETS, else ./datasets
    split   "train" or "val"; None for what the name says, else "val"
    task    "instance", "panoptic" or "semantic"; None for what the name says or an annotation
            file holds, else "instance"
    on_problem  what is done with what is wrong; by default the first problem is raised

    "synthetic" is generated with default settings where it is not there yet. DataError for an
    unknown name or task, one that contradicts the name, and where files are missing.
    """
    if task is not None and task not in get_args(Task):
        known = ", ".join(get_args(Task))
        raise DataError(f"there is no task {task}: choose one of {known}")
    kind = cast(Task | None, task)
    if dataset in DETECTRON2_NAMES:
        dataset, split, kind = _named(dataset, split, kind)
    split = split or "val"
    if dataset.endswith(".json"):
        path = Path(dataset)
        return _annotation_file(path, None if root is None else Path(root), split, kind, on_problem)
    if dataset in _LAYOUTS:
        layout = _LAYOUTS[dataset]
        folder = Path(root or default_root()) / layout.folder
    elif not Path(dataset).exists() and (found := open_catalog_dataset(dataset, kind, on_problem)):
        return found
    else:
        layout, folder = _detect_layout(dataset), Path(dataset)
    return layout.open(folder, split, kind or "instance", on_problem)


def _named(name: str, split: str | None, task: Task | None) -> tuple[str, str, Task]:
    """Our name, split and task of one of detectron2's names, which may not be contradicted."""
    found = DETECTRON2_NAMES[name]
    for what, given, told in (("split", split, found.split), ("task", task, found.task)):
        if given not in (None, told):
            raise DataError(
                f"{name} is {found.dataset}, split {found.split}, task {found.task}, but {what} "
                f"{given} is asked for: give {what} {told}, or another name"
            )
    return found.dataset, found.split, found.task


def default_root() -> Path:
    """The folder that holds the data sets: $DETECTRON2_DATASETS, else ./datasets."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets")


def find_datasets(root: Path) -> dict[str, Path | None]:
    """Every known data set: its folder below the root if that looks like it, else None."""
    folders = {name: root / layout.folder for name, layout in _LAYOUTS.items()}
    return {
        name: folder if any(any(folder.glob(marker)) for marker in _LAYOUTS[name].markers) else None
        for name, folder in folders.items()
    }


@dataclass(frozen=True, slots=True)
class _Layout:
    """A data set's folder as detectron2 names it, markers by which it is known, what opens it."""

    folder: str
    markers: tuple[str, ...]
    open: Callable[[Path, str, Task, ProblemHandler], SegmentationDataset]


def _detect_layout(dataset: str) -> _Layout:
    """The layout of a folder, by what is in it."""
    folder = Path(dataset)
    for layout in _LAYOUTS.values():
        if any(any(folder.glob(marker)) for marker in layout.markers):
            return layout
    what = f"there is no data set {dataset}"
    if folder.is_dir():
        what = f"{folder} is not the folder of a known data set"
    known = similar_names(dataset) or ", ".join(KNOWN_DATASETS)
    raise DataError(
        f"{what}: choose one of {known}, or give the folder of one or the path of a COCO-format"
        " file that ends in .json"
    )


def _open_synthetic(
    folder: Path, split: str, task: Task, on_problem: ProblemHandler
) -> SegmentationDataset:
    if split not in SYNTHETIC_SPLITS:
        known = " or ".join(SYNTHETIC_SPLITS)
        raise DataError(f"the synthetic data has no split {split}: choose {known}")
    if not folder.exists():
        _log.info("generating the synthetic data set in %s", folder)
        generate_synthetic(folder)
    annotation_file = folder / "annotations" / f"{FILE_PREFIX[task]}_{split}.json"
    if not annotation_file.is_file():
        raise DataError(
            f"the synthetic data in {folder} has no {annotation_file.name}: remove the folder to"
            " have it generated anew"
        )
    return coco_dataset(
        annotation_file,
        folder / split,
        task=task,
        name="synthetic",
        split=split,
        on_problem=on_problem,
    )


def _annotation_file(
    path: Path, root: Path | None, split: str, task: Task | None, on_problem: ProblemHandler
) -> SegmentationDataset:
    """Images are looked for in the root and where COCO's and other tools' layouts have them."""
    folder = path.parent
    suffix = path.stem.partition("_")[2] or path.stem
    beside = [folder, folder / "images"]
    around = [folder.parent / name for name in (split, f"{split}2017", suffix, "images")]
    roots = list(dict.fromkeys([*([root] if root else []), *beside, *around]))
    return coco_dataset(path, roots, task=task, name=path.stem, split=split, on_problem=on_problem)


_LAYOUTS = {
    "synthetic": _Layout("synthetic", ("synthetic.json",), _open_synthetic),
    "coco": _Layout("coco", ("annotations/*_*2017.json",), open_coco),
    "ade20k": _Layout(
        "ADEChallengeData2016", ("images/training", "images/validation"), open_ade20k
    ),
    "ade20k-full": _Layout(
        "ADE20K_2021_17_01",
        ("images_detectron2/training", "images_detectron2/validation"),
        open_ade20k_full,
    ),
    "cityscapes": _Layout("cityscapes", ("leftImg8bit", "gtFine"), open_cityscapes),
    "mapillary": _Layout(
        "mapillary_vistas", ("training/images", "validation/images"), open_mapillary
    ),
}

KNOWN_DATASETS = tuple(_LAYOUTS)
