"""Cityscapes with fine annotations, as its own scripts prepare them."""

from dataclasses import replace
from pathlib import Path

from mpdiag.data.coco_file import read_coco_file
from mpdiag.data.coco_panoptic import CocoPanoptic
from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.files import need
from mpdiag.data.instance_maps import InstanceMaps
from mpdiag.data.label_maps import LabelMaps
from mpdiag.data.label_tables import cityscapes_classes
from mpdiag.data.maps import PixelMaps
from mpdiag.data.problems import Report
from mpdiag.data.source import AnnotationSource, Task

_IMAGE = "_leftImg8bit.png"
_ROOT = "give the folder that holds cityscapes/ with --root or $DETECTRON2_DATASETS"
_SCRIPTS = "cityscapesscripts/preparation"


def open_cityscapes(folder: Path, split: str, task: Task, report: Report) -> SegmentationDataset:
    """Open the data set; `folder` holds leftImg8bit/ and gtFine/.

    The classes of the instance task are the 8 that have instances, else all 19.
    """
    what = f"Cityscapes {split}"
    images = need(folder / "leftImg8bit" / split, what, _ROOT)
    annotations = need(folder / "gtFine" / split, f"the annotation of {what}", _ROOT)
    source: AnnotationSource
    if task == "panoptic":
        source = _panoptic(folder / "gtFine" / f"cityscapes_panoptic_{split}.json", split, report)
    elif task == "semantic":
        mend = f"make them with {_SCRIPTS}/createTrainIdLabelImgs.py"
        maps = _maps(images, annotations, "_gtFine_labelTrainIds.png", mend, report)
        source = LabelMaps(maps, cityscapes_classes())
    else:
        mend = "unpack gtFine_trainvaltest.zip anew"
        maps = _maps(images, annotations, "_gtFine_instanceIds.png", mend, report)
        source = InstanceMaps(maps, [info for info in cityscapes_classes() if info.isthing])
    return SegmentationDataset(
        source, images, task=task, name="cityscapes", split=split, report=report
    )


def _panoptic(path: Path, split: str, report: Report) -> CocoPanoptic:
    mend = f"make it with {_SCRIPTS}/createPanopticImgs.py"
    need(path, f"the panoptic annotation of Cityscapes {split}", mend)
    file = read_coco_file(path, report)
    images = [replace(image, file_name=_image_file(image.file_name)) for image in file.images]
    return CocoPanoptic(replace(file, images=images), [path.with_suffix("")], report)


def _image_file(listed: str) -> str:
    """CITY/CITY_000000_000019_leftImg8bit.png; the script lists CITY_000000_000019_gtFine_... ."""
    stem = Path(listed).name.removesuffix(_IMAGE).removesuffix("_gtFine")
    return f"{stem.partition('_')[0]}/{stem}{_IMAGE}"


def _maps(images: Path, annotations: Path, suffix: str, mend: str, report: Report) -> PixelMaps:
    """The maps of a suffix; images and maps are paired by city and name."""
    stems = {
        file.relative_to(folder).as_posix().removesuffix(end)
        for folder, end in ((images, _IMAGE), (annotations, suffix))
        for file in folder.glob(f"*/*{end}")
    }
    names = sorted(stems)
    return PixelMaps(
        annotations,
        [name + _IMAGE for name in names],
        [name + suffix for name in names],
        mend,
        report,
    )
