"""YOLO segmentation data: data.yaml, images, and a text file of polygons per image."""

from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from mpdiag.choices import Task
from mpdiag.data.annotations import OpenedSplit
from mpdiag.data.files import require_instance_task
from mpdiag.data.image_files import read_displayed_size
from mpdiag.data.instance_files import AnnotatedImage, InstanceFiles, instances, is_image
from mpdiag.data.problems import DataProblem, ProblemHandler
from mpdiag.data.sample import ClassInfo, GroundTruth
from mpdiag.data.segmentation import decode, require_mask_memory, to_rle
from mpdiag.errors import DataError
from mpdiag.printable import printable
from mpdiag.untrusted import read_text, read_yaml

_FILE = "data.yaml"
_BOX_NUMBERS = 4


def open_yolo(folder: Path, split: str, task: Task, on_problem: ProblemHandler) -> OpenedSplit:
    """Open a folder with data.yaml (keys `names`, `train`, `val`), images/ and labels/.

    A label file has one line per object: class index, then x and y of a polygon as shares of width
    and height (Ultralytics, segmentation format). Images without a label file have no objects.
    """
    require_instance_task(folder, task)
    settings = _read_settings(folder / _FILE)
    classes = _classes(folder / _FILE, settings.get("names"))
    images = [
        AnnotatedImage(image, _label_file(image))
        for listed in _listed(folder / _FILE, settings, split)
        for image in _images(folder, listed)
    ]
    read = partial(_read_objects, num_classes=len(classes), on_problem=on_problem)
    return InstanceFiles(folder, images, classes, read), folder


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = read_yaml(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); correct the file") from None
    if not isinstance(settings, dict):
        raise DataError(f"{path}: is no mapping; give a YOLO data.yaml with names, train and val")
    return settings


def _classes(path: Path, names: Any) -> list[ClassInfo]:
    """Return the classes from a list of names, or from a mapping of index to name."""
    if isinstance(names, dict) and sorted(map(str, names)) == sorted(map(str, range(len(names)))):
        names = [name for _, name in sorted(names.items(), key=lambda item: int(item[0]))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: has no class names; add the list `names`")
    return [ClassInfo(index, str(name)) for index, name in enumerate(names)]


def _listed(path: Path, settings: dict[str, Any], split: str) -> list[str]:
    """Return the image folders of a split, relative to the folder of data.yaml."""
    entry = settings.get(split, settings.get("valid") if split == "val" else None)
    listed = entry if isinstance(entry, list) else [entry]
    entries = [item for item in listed if isinstance(item, str)]
    if not entries or len(entries) < len(listed):
        raise DataError(f"{path}: has no images of split {split}; add the key {split}")
    base = settings.get("path")
    prefixes = ["", base] if isinstance(base, str) and not Path(base).is_absolute() else [""]
    found = []
    for item in entries:
        # Exported files have ../train/images where the folder is train/images.
        names = [str(PurePosixPath(prefix, item.removeprefix("../"))) for prefix in prefixes]
        inside = [name for name in names if _is_inside(name) and (path.parent / name).is_dir()]
        if not inside:
            raise DataError(
                f"{path}: {printable(item, 80)} of split {split} is no folder in {path.parent}; "
                "give image folders relative to data.yaml"
            )
        found.append(inside[0])
    return found


def _is_inside(name: str) -> bool:
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


def _images(folder: Path, listed: str) -> list[str]:
    files = (path for path in (folder / listed).rglob("*") if is_image(path))
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _label_file(image: str) -> str:
    """Return labels/x.txt of images/x.jpg: the last `images` of the path is replaced."""
    path = PurePosixPath(image).with_suffix(".txt")
    parts = list(path.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return str(PurePosixPath(*parts))


def _read_objects(
    image: Path, labels: Path, num_classes: int, on_problem: ProblemHandler
) -> GroundTruth:
    try:
        lines = read_text(labels).splitlines()
    except FileNotFoundError:
        lines = []
    except (OSError, ValueError) as error:
        raise DataProblem(
            "unreadable annotation", f"{labels}: cannot be read ({error}); write the file again"
        ) from None
    objects = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    height, width = read_displayed_size(image)
    require_mask_memory((len(objects), height, width), image)
    rles, kept = [], []
    for number, values in objects:
        try:
            label, polygon = _parse(values, num_classes, height, width)
            rles.append(to_rle([polygon], height, width))
            kept.append(label)
        except ValueError as reason:
            message = f"{labels}: line {number} {reason}; correct or remove the line"
            on_problem(DataProblem("unreadable segmentation", message))
    return instances(decode(rles, height, width), kept)


def _parse(values: list[str], num_classes: int, height: int, width: int) -> tuple[int, list[float]]:
    """Return label and polygon in pixels; the text of a ValueError completes "line 3 ..."."""
    try:
        number, *numbers = map(float, values)
    except ValueError:
        raise ValueError("has values that are not numbers") from None
    if not number.is_integer():
        raise ValueError(f"has class {number:g}, which is no whole number")
    label = int(number)
    if not 0 <= label < num_classes:
        raise ValueError(f"has class {label} of {num_classes}, counted from 0")
    if len(numbers) == _BOX_NUMBERS:
        raise ValueError("has a box where a polygon is needed")
    sizes = (width, height)
    return label, [part * sizes[place % 2] for place, part in enumerate(numbers)]
