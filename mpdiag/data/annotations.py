"""Read a COCO annotation file into an index by image, and say in one sentence what is wrong."""

import json
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mpdiag.data.sample import ClassInfo
from mpdiag.errors import DataError

Task = Literal["instance", "panoptic"]

_IMAGE_KEYS = ("id", "file_name", "height", "width")
_ANNOTATION_KEYS: dict[Task, tuple[str, ...]] = {
    "instance": ("id", "image_id", "category_id", "segmentation"),
    "panoptic": ("image_id", "file_name", "segments_info"),
}
_SEGMENT_KEYS = ("id", "category_id")


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One entry of "images"."""

    image_id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One annotation that is no crowd; `segmentation` is as in the file (polygons or RLE)."""

    annotation_id: int
    label: int
    segmentation: Any


@dataclass(frozen=True, slots=True)
class PanopticRecord:
    """The segments of one image; `labels` maps segment id to class index; some are crowds."""

    file_name: str
    labels: dict[int, int]
    crowds: frozenset[int]


class PackedRecords:
    """A read-only list of picklable records in one buffer.

    Millions of small Python objects would be copied page by page into every worker process as
    their reference counts are touched; one buffer stays shared.
    """

    def __init__(self, records: Iterable[Any]) -> None:
        chunks = [pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = np.cumsum([0, *map(len, chunks)])
        self._buffer = np.frombuffer(b"".join(chunks), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        index = range(len(self))[index]
        return pickle.loads(self._buffer[self._ends[index] : self._ends[index + 1]].data)


@dataclass(frozen=True, slots=True)
class AnnotationIndex:
    """What a data set needs of its annotation file.

    images       in the order of the file
    records      for each image its list of InstanceRecord, or its PanopticRecord
    num_objects  for each image how many segments it has, crowds left out
    classes      in the order of their category ids
    """

    images: list[ImageRecord]
    records: PackedRecords
    num_objects: list[int]
    classes: list[ClassInfo]


def read_annotations(path: Path, task: Task) -> AnnotationIndex:
    """Index the annotation file. DataError where it is missing, broken, or something else."""
    content = _load_json(path)
    _check_layout(path, content, task)
    images = _read_images(path, content["images"])
    classes = _read_classes(path, content["categories"])
    labels = {info.category_id: label for label, info in enumerate(classes)}
    if task == "instance":
        by_image = _group_instances(path, content["annotations"], images, labels)
        records: Sequence[Any] = [by_image[image.image_id] for image in images]
        counts = [len(instances) for instances in records]
    else:
        segments = _group_segments(path, content["annotations"], images, labels)
        records = [segments[image.image_id] for image in images]
        counts = [len(record.labels) - len(record.crowds) for record in records]
    return AnnotationIndex(images, PackedRecords(records), counts, classes)


def _load_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return json.load(file)
    except FileNotFoundError:
        raise DataError(
            f"there is no annotation file {path}: give the path of a COCO JSON"
        ) from None
    except OSError as error:
        raise DataError(
            f"annotation file {path} can't be read ({error.strerror}): check the path"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"annotation file {path} is not complete JSON ({error}): it may have been cut short,"
            " so fetch it anew"
        ) from None


def _check_layout(path: Path, content: Any, task: Task) -> None:
    if not isinstance(content, dict):
        kind = "a list, as a file of results is" if isinstance(content, list) else "a bare value"
        raise DataError(
            f"{path} is not a COCO annotation file but {kind}: give the file with the"
            ' ground truth ("images", "annotations", "categories")'
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise DataError(
                f'{path} is not a COCO annotation file, since it has no list "{key}": give the'
                " file with the ground truth"
            )
    for key in ("images", "categories"):
        if not content[key]:
            raise DataError(f'{path} has an empty list "{key}": give a file that has entries')
    first = next(iter(content["annotations"]), None)
    if isinstance(first, dict) and ("segments_info" in first) != (task == "panoptic"):
        other = "panoptic" if task == "instance" else "instance"
        raise DataError(
            f"{path} holds {other} annotations, not {task} ones: ask for task {other} or give"
            f" the {task} file"
        )


def _read_images(path: Path, entries: list[Any]) -> list[ImageRecord]:
    images: list[ImageRecord] = []
    seen: set[int] = set()
    for position, entry in enumerate(entries):
        what = f"entry {position} of images"
        _check_entry(path, entry, what, _IMAGE_KEYS, integers=("id", "height", "width"))
        _check_new(path, "image", entry["id"], seen)
        name = _file_name(path, f"image {entry['id']}", entry)
        if min(entry["height"], entry["width"]) < 1:
            raise DataError(
                f"{path}: image {entry['id']} has the size {entry['height']} x {entry['width']}:"
                " correct its height and width"
            )
        images.append(ImageRecord(entry["id"], name, entry["height"], entry["width"]))
    return images


def _read_classes(path: Path, entries: list[Any]) -> list[ClassInfo]:
    seen: set[int] = set()
    for position, entry in enumerate(entries):
        what = f"entry {position} of categories"
        _check_entry(path, entry, what, ("id", "name"), integers=("id",))
        _check_new(path, "category", entry["id"], seen)
    ordered = sorted(entries, key=lambda entry: int(entry["id"]))
    return [ClassInfo(e["id"], str(e["name"]), bool(e.get("isthing", 1))) for e in ordered]


def _group_instances(
    path: Path, entries: list[Any], images: list[ImageRecord], labels: dict[int, int]
) -> dict[int, list[InstanceRecord]]:
    grouped: dict[int, list[InstanceRecord]] = {image.image_id: [] for image in images}
    seen: set[int] = set()
    keys = _ANNOTATION_KEYS["instance"]
    for position, entry in enumerate(entries):
        what = f"entry {position} of annotations"
        _check_entry(path, entry, what, keys, integers=("id", "image_id", "category_id"))
        _check_new(path, "annotation", entry["id"], seen)
        what = f"annotation {entry['id']}"
        _check_known(path, what, entry["image_id"], grouped)
        label = _label_of(path, what, entry["category_id"], labels)
        if not entry.get("iscrowd", 0):
            record = InstanceRecord(entry["id"], label, entry["segmentation"])
            grouped[entry["image_id"]].append(record)
    return grouped


def _group_segments(
    path: Path, entries: list[Any], images: list[ImageRecord], labels: dict[int, int]
) -> dict[int, PanopticRecord]:
    listed = {image.image_id for image in images}
    grouped: dict[int, PanopticRecord] = {}
    seen: set[int] = set()
    for position, entry in enumerate(entries):
        what = f"entry {position} of annotations"
        _check_entry(path, entry, what, _ANNOTATION_KEYS["panoptic"], integers=("image_id",))
        what = f"the annotation of image {entry['image_id']}"
        _check_known(path, what, entry["image_id"], listed)
        _check_new(path, "annotation of image", entry["image_id"], seen)
        segments: dict[int, int] = {}
        if not isinstance(entry["segments_info"], list):
            raise DataError(f'{path}: {what} has no list "segments_info": correct it')
        for segment in entry["segments_info"]:
            _check_entry(path, segment, f"a segment in {what}", _SEGMENT_KEYS, _SEGMENT_KEYS)
            where = f"segment {segment['id']} in {what}"
            if segment["id"] in segments:
                raise DataError(f"{path}: {where} is listed twice: remove one of the two")
            label = _label_of(path, where, segment["category_id"], labels)
            segments[segment["id"]] = label
        crowds = {info["id"] for info in entry["segments_info"] if info.get("iscrowd", 0)}
        grouped[entry["image_id"]] = PanopticRecord(
            _file_name(path, what, entry), segments, frozenset(crowds)
        )
    for image in images:
        if image.image_id not in grouped:
            raise DataError(
                f"{path}: image {image.image_id} ({image.file_name}) has no panoptic annotation:"
                " add it or remove the image from the list"
            )
    return grouped


def _check_entry(
    path: Path, entry: Any, what: str, keys: Sequence[str], integers: Sequence[str]
) -> None:
    if not isinstance(entry, dict):
        raise DataError(f"{path}: {what} is not a JSON object: give a COCO annotation file")
    for key in keys:
        if key not in entry:
            raise DataError(f'{path}: {what} has no "{key}": give a complete COCO file')
    for key in integers:
        if type(entry[key]) is not int:
            raise DataError(
                f'{path}: {what} has {entry[key]!r} as its "{key}", where COCO has a whole'
                " number: correct it"
            )


def _file_name(path: Path, what: str, entry: dict[str, Any]) -> str:
    name = str(entry["file_name"])
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(
            f"{path}: {what} has the file name {name!r}, which leads out of the folder of the"
            " files: name them relative to it"
        )
    return name


def _check_new(path: Path, kind: str, number: int, seen: set[int]) -> None:
    if number in seen:
        raise DataError(f"{path}: {kind} {number} is listed twice: make the ids unique")
    seen.add(number)


def _check_known(path: Path, what: str, image_id: int, listed: Any) -> None:
    if image_id not in listed:
        raise DataError(
            f"{path}: {what} belongs to image {image_id}, which is not listed: add the image to"
            " the file or remove the annotation"
        )


def _label_of(path: Path, what: str, category_id: int, labels: dict[int, int]) -> int:
    if category_id not in labels:
        raise DataError(
            f"{path}: {what} has category {category_id}, which is not listed: add it to the"
            " categories or correct the annotation"
        )
    return labels[category_id]
