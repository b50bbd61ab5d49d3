"""Image folders of the datasets library, with instance maps."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mpdiag.choices import Task
from mpdiag.data.annotations import OpenedSplit
from mpdiag.data.files import choose_root, require_instance_task, split_folder
from mpdiag.data.image_files import read_integer_map, read_rgb
from mpdiag.data.instance_files import ONE_CLASS, AnnotatedImage, InstanceFiles
from mpdiag.data.integer_maps import ground_truth_from_map
from mpdiag.data.problems import DataProblem, ProblemHandler
from mpdiag.data.sample import ClassInfo, GroundTruth
from mpdiag.errors import DataError
from mpdiag.printable import printable
from mpdiag.untrusted import parse_json, read_json, read_text

METADATA = "metadata.jsonl"
_CLASSES = "id2label.json"
_FILE_NAME = "file_name"
_MAX_CLASS = 255


def open_image_folder(
    folder: Path, split: str, task: Task, on_problem: ProblemHandler
) -> OpenedSplit:
    """Open a folder with SPLIT/metadata.jsonl, whose lines name an image and its instance map.

    The image is `file_name`, and the map is the other key that ends with `file_name`, as in the
    imagefolder format of the datasets library. With FOLDER/id2label.json, maps are RGB images as in
    transformers' example run_instance_segmentation.py: R is the class and G the instance; class 0
    is the background. Without it, maps have one channel with the instance; 0 is the background.
    """
    require_instance_task(folder, task)
    root = split_folder(folder, split)
    images = _read_metadata(root / METADATA)
    choose_root(root / METADATA, [x.annotation for x in images], [root], on_problem)
    path = folder / _CLASSES
    if not path.exists():
        return InstanceFiles(root, images, ONE_CLASS, _read_instances), root
    names = _read_classes(path)
    classes = [ClassInfo(number, names[number]) for number in sorted(names) if number > 0]
    label_of = {info.category_id: label for label, info in enumerate(classes)}
    read = partial(_read_class_instances, label_of=label_of, on_problem=on_problem)
    return InstanceFiles(root, images, classes, read), root


def _read_metadata(path: Path) -> list[AnnotatedImage]:
    images = []
    try:
        for number, line in enumerate(read_text(path).splitlines(), 1):
            if line.strip():
                images.append(_parse_line(line, number))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); correct the file") from None
    return images


def _parse_line(line: str, number: int) -> AnnotatedImage:
    entry: Any = parse_json(line)
    keys = [key for key in entry if key.endswith(_FILE_NAME)] if isinstance(entry, dict) else []
    if len(keys) != 2 or _FILE_NAME not in keys:
        raise ValueError(f"line {number} needs file_name and one other key that ends with it")
    image, annotation = entry[_FILE_NAME], entry[next(key for key in keys if key != _FILE_NAME)]
    for name in (image, annotation):
        path = Path(name) if isinstance(name, str) else Path()
        if not path.name or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"line {number} names no file inside the folder")
    return AnnotatedImage(image, annotation)


def _read_classes(path: Path) -> dict[int, str]:
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError("not a mapping of ids to names")
        names = {int(key): printable(str(name), 200) for key, name in content.items()}
        if names and not 0 <= min(names) <= max(names) <= _MAX_CLASS:
            raise ValueError(f"a class id is not in 0..{_MAX_CLASS}, the values of a channel")
        return names
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); correct the file") from None


def _read_instances(image: Path, path: Path) -> GroundTruth:
    instance_map = read_integer_map(path)
    ids = [value for value in np.unique(instance_map).tolist() if value != 0]
    return ground_truth_from_map(instance_map, ids, [0] * len(ids), [False] * len(ids), path)


def _read_class_instances(
    image: Path, path: Path, label_of: dict[int, int], on_problem: ProblemHandler
) -> GroundTruth:
    pixels = read_rgb(path).astype(np.int32)
    pairs = pixels[..., 0] * 256 + pixels[..., 1]
    found = [value for value in np.unique(pairs).tolist() if value >= 256]
    ids = [value for value in found if value // 256 in label_of]
    if len(ids) < len(found):
        unknown = min(value // 256 for value in found if value // 256 not in label_of)
        message = f"{path}: has class {unknown}, which {_CLASSES} does not list; add the class"
        on_problem(DataProblem("unknown category", message))
    labels = [label_of[value // 256] for value in ids]
    return ground_truth_from_map(pairs, ids, labels, [False] * len(ids), path)
