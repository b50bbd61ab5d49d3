"""Cityscapes with fine annotations, prepared with cityscapesscripts."""

from dataclasses import replace
from pathlib import Path

from mpdiag.choices import Task
from mpdiag.data.annotations import Annotations
from mpdiag.data.class_lists import cityscapes_classes
from mpdiag.data.coco_file import read_coco_file
from mpdiag.data.coco_panoptic import CocoPanoptic
from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.files import require_path
from mpdiag.data.instance_maps import InstanceMaps
from mpdiag.data.integer_maps import IntegerMapFolder
from mpdiag.data.label_maps import LabelMaps
from mpdiag.data.problems import ProblemHandler

_IMAGE = "_leftImg8bit.png"
_ROOT = "set --root or $DETECTRON2_DATASETS to the folder that contains cityscapes/"
_SCRIPTS = "cityscapesscripts/preparation"


def open_cityscapes(
    folder: Path, split: str, task: Task, on_problem: ProblemHandler
) -> SegmentationDataset:
    """Open Cityscapes; `folder` contains leftImg8bit/ and gtFine/.

    The instance task has the 8 classes with instances, the other tasks have all 19.

    Raises:
        DataError: files are missing.
    """
    what = f"Cityscapes {split}"
    images = require_path(folder / "leftImg8bit" / split, what, _ROOT)
    gt_folder = require_path(folder / "gtFine" / split, f"annotations of {what}", _ROOT)
    annotations: Annotations
    if task == "panoptic":
        path = folder / "gtFine" / f"cityscapes_panoptic_{split}.json"
        annotations = _panoptic(path, split, on_problem)
    elif task == "semantic":
        fix = f"create them with {_SCRIPTS}/createTrainIdLabelImgs.py"
        maps = _maps(images, gt_folder, "_gtFine_labelTrainIds.png", fix, on_problem)
        annotations = LabelMaps(maps, cityscapes_classes())
    else:
        fix = "extract gtFine_trainvaltest.zip again"
        maps = _maps(images, gt_folder, "_gtFine_instanceIds.png", fix, on_problem)
        annotations = InstanceMaps(maps, [info for info in cityscapes_classes() if info.isthing])
    return SegmentationDataset(
        annotations, images, task=task, name="cityscapes", split=split, on_problem=on_problem
    )


def _panoptic(path: Path, split: str, on_problem: ProblemHandler) -> CocoPanoptic:
    fix = f"create them with {_SCRIPTS}/createPanopticImgs.py"
    require_path(path, f"panoptic annotations of Cityscapes {split}", fix)
    file = read_coco_file(path, on_problem)
    images = [replace(image, file_name=_image_file(image.file_name)) for image in file.images]
    return CocoPanoptic(replace(file, images=images), [path.with_suffix("")], on_problem)


def _image_file(listed: str) -> str:
    """Return CITY/CITY_000000_000019_leftImg8bit.png for CITY_000000_000019_gtFine_... ."""
    stem = Path(listed).name.removesuffix(_IMAGE).removesuffix("_gtFine")
    return f"{stem.partition('_')[0]}/{stem}{_IMAGE}"


def _maps(
    images: Path, gt_folder: Path, suffix: str, fix: str, on_problem: ProblemHandler
) -> IntegerMapFolder:
    """Return the maps with a suffix; images and maps are paired by city and name."""
    stems = sorted(
        {
            file.relative_to(folder).as_posix().removesuffix(end)
            for folder, end in ((images, _IMAGE), (gt_folder, suffix))
            for file in folder.glob(f"*/*{end}")
        }
    )
    return IntegerMapFolder(
        gt_folder,
        [stem + _IMAGE for stem in stems],
        [stem + suffix for stem in stems],
        fix,
        on_problem,
    )
