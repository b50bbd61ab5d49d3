"""Cityscapes with fine annotations, prepared with cityscapesscripts."""

from dataclasses import replace
from pathlib import Path

from mpdiag.choices import Task
from mpdiag.data.annotations import ImageRecord, OpenedSplit
from mpdiag.data.class_lists import cityscapes_classes
from mpdiag.data.coco_file import read_coco_file
from mpdiag.data.coco_panoptic import CocoPanoptic
from mpdiag.data.files import require_path
from mpdiag.data.instance_maps import InstanceMaps
from mpdiag.data.integer_maps import IntegerMapFolder
from mpdiag.data.label_maps import LabelMaps
from mpdiag.data.problems import ProblemHandler
from mpdiag.errors import DataError

_IMAGE = "_leftImg8bit.png"
_ROOT = "set --root or $DETECTRON2_DATASETS to the folder that contains cityscapes/"
_SCRIPTS = "cityscapesscripts/preparation"


def open_cityscapes(
    folder: Path, split: str, task: Task, on_problem: ProblemHandler
) -> OpenedSplit:
    """Open Cityscapes; `folder` contains leftImg8bit/ and gtFine/.

    The instance task has the 8 classes with instances, the other tasks have all 19.
    """
    what = f"Cityscapes {split}"
    images = require_path(folder / "leftImg8bit" / split, what, _ROOT)
    gt_folder = require_path(folder / "gtFine" / split, f"annotations of {what}", _ROOT)
    if task == "panoptic":
        path = folder / "gtFine" / f"cityscapes_panoptic_{split}.json"
        fix = f"create them with {_SCRIPTS}/createPanopticImgs.py"
        require_path(path, f"panoptic annotations of {what}", fix)
        file = read_coco_file(path, on_problem)
        records = [replace(image, file_name=_image_file(path, image)) for image in file.images]
        file = replace(file, images=records)
        return CocoPanoptic(file, [path.with_suffix("")], on_problem), images
    if task == "semantic":
        fix = f"create them with {_SCRIPTS}/createTrainIdLabelImgs.py"
        maps = _maps(images, gt_folder, "_gtFine_labelTrainIds.png", fix, on_problem)
        return LabelMaps(maps, cityscapes_classes()), images
    fix = "extract gtFine_trainvaltest.zip again"
    maps = _maps(images, gt_folder, "_gtFine_instanceIds.png", fix, on_problem)
    things = [info for info in cityscapes_classes() if info.isthing]
    return InstanceMaps(maps, things), images


def _image_file(path: Path, image: ImageRecord) -> str:
    """Return CITY/CITY_000000_000019_leftImg8bit.png for CITY_000000_000019_gtFine_... .

    Raises:
        DataError: the city is empty or dots, which would be another folder.
    """
    stem = Path(image.file_name).name.removesuffix(_IMAGE).removesuffix("_gtFine")
    city = stem.partition("_")[0]
    if not city.strip("."):
        raise DataError(
            f"{path}: image {image.image_id} has file name {image.file_name!r}, which names no "
            f"city; create the file again with {_SCRIPTS}/createPanopticImgs.py"
        )
    return f"{city}/{stem}{_IMAGE}"


def _maps(
    images: Path, gt_folder: Path, suffix: str, fix: str, on_problem: ProblemHandler
) -> IntegerMapFolder:
    """Return the maps with a suffix; images and maps are paired by city and name."""
    stems = {
        file.relative_to(folder).as_posix().removesuffix(end)
        for folder, end in ((images, _IMAGE), (gt_folder, suffix))
        for file in folder.glob(f"*/*{end}")
    }
    files = [(stem + _IMAGE, stem + suffix) for stem in sorted(stems)]
    return IntegerMapFolder(gt_folder, files, fix, on_problem)
