"""COCO-format JSON files: images and categories checked, annotations still as they are."""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mpdiag.data.annotations import ImageRecord
from mpdiag.data.problems import DataProblem, ProblemHandler, raise_problem
from mpdiag.data.sample import ClassInfo
from mpdiag.errors import DataError

AnnotationKind = Literal["instance", "panoptic"]

_IMAGE_KEYS = ("id", "file_name", "height", "width")
_INVALID = -1


@dataclass(frozen=True, slots=True)
class CocoFile:
    """What all files of the format have.

    Attributes:
        path: the file.
        holds: the kind of its annotations, None where it has none.
        images: in the order of the file.
        sizes: (height, width) of each image.
        index_of: position in `images` by the file's own image id, -1 of an unusable entry.
        classes: in the order of their category ids.
        label_of: position in `classes` by category id.
        annotations: as in the file, unchecked.
        checks: for the entries of `annotations`.
    """

    path: Path
    holds: AnnotationKind | None
    images: list[ImageRecord]
    sizes: list[tuple[int, int]]
    index_of: dict[Hashable, int]
    classes: list[ClassInfo]
    label_of: dict[int, int]
    annotations: list[Any]
    checks: "EntryValidator"


def read_coco_file(path: Path, on_problem: ProblemHandler = raise_problem) -> CocoFile:
    """Read a file; what is wrong with single entries of images and categories is reported.

    Image ids may be numbers or, as in the files of ADE20K and Cityscapes, strings. Where there is
    a string, images are numbered from 1 by their position in the file.

    Raises DataError where the file is missing, broken, or something else.
    """
    content = _load_json(path)
    holds = _check_layout(path, content)
    checks = EntryValidator(path, on_problem)
    images, sizes, index_of = _read_images(checks, content["images"])
    classes = _read_classes(checks, content["categories"])
    if not images or not classes:
        raise DataError(f"{path} has no usable image or category: give a complete COCO file")
    label_of = {info.category_id: label for label, info in enumerate(classes)}
    return CocoFile(
        path, holds, images, sizes, index_of, classes, label_of, content["annotations"], checks
    )


@dataclass(frozen=True, slots=True)
class EntryValidator:
    """Checks of single entries of a file: each reports what is wrong, and says if nothing is."""

    path: Path
    on_problem: ProblemHandler

    def wrong(self, kind: str, message: str) -> None:
        self.on_problem(DataProblem(kind, f"{self.path}: {message}"))

    def complete(
        self, entry: Any, what: str, keys: Sequence[str], integers: Sequence[str] = ()
    ) -> bool:
        """Whether an entry is a mapping with the keys, some of them with whole numbers."""
        if not isinstance(entry, dict):
            self.wrong("incomplete entry", f"{what} is not a JSON object: give a COCO file")
            return False
        for key in keys:
            if key not in entry:
                self.wrong("incomplete entry", f'{what} has no "{key}": give a complete COCO file')
                return False
        for key in integers:
            if type(entry[key]) is not int:
                self.wrong(
                    "wrong type",
                    f'{what} has {entry[key]!r} as its "{key}", where COCO has a whole number:'
                    " correct it",
                )
                return False
        return True

    def image_id(self, entry: dict[str, Any], what: str, key: str) -> bool:
        """Whether the entry's image id is a number or a string."""
        if type(entry[key]) in (int, str):
            return True
        self.wrong(
            "wrong type",
            f'{what} has {entry[key]!r} as its "{key}", where COCO has a whole number or a string:'
            " correct it",
        )
        return False

    def new(self, kind: str, number: Hashable, seen: set[Hashable]) -> bool:
        """Whether an id wasn't seen before; it now is."""
        if number in seen:
            self.wrong("id listed twice", f"{kind} {number} is listed twice: make the ids unique")
            return False
        seen.add(number)
        return True

    def listed(self, what: str, image_id: Hashable, index_of: Mapping[Hashable, int]) -> bool:
        """Whether the image of an annotation is known, and usable."""
        if image_id not in index_of:
            self.wrong(
                "unknown image",
                f"{what} belongs to image {image_id}, which is not listed: add the image to the"
                " file or remove the annotation",
            )
            return False
        return index_of[image_id] != _INVALID

    def category(self, what: str, category_id: int, label_of: Mapping[int, int]) -> bool:
        """Whether the category is listed."""
        if category_id in label_of:
            return True
        self.wrong(
            "unknown category",
            f"{what} has category {category_id}, which is not listed: add it to the categories or"
            " correct the annotation",
        )
        return False

    def file_name(self, what: str, entry: dict[str, Any]) -> bool:
        """Whether the file name stays within the folder of the files."""
        name = Path(str(entry["file_name"]))
        if not name.is_absolute() and ".." not in name.parts:
            return True
        self.wrong(
            "file name outside the folder",
            f"{what} has the file name {str(name)!r}, which leads out of the folder of the files:"
            " name them relative to it",
        )
        return False


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


def _check_layout(path: Path, content: Any) -> AnnotationKind | None:
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
    first = next((entry for entry in content["annotations"] if isinstance(entry, dict)), None)
    if first is None:
        return None
    return "panoptic" if "segments_info" in first else "instance"


def _read_images(
    checks: EntryValidator, entries: list[Any]
) -> tuple[list[ImageRecord], list[tuple[int, int]], dict[Hashable, int]]:
    images: list[ImageRecord] = []
    sizes: list[tuple[int, int]] = []
    index_of: dict[Hashable, int] = {}
    seen: set[Hashable] = set()
    in_words = any(isinstance(entry, dict) and type(entry.get("id")) is str for entry in entries)
    for position, entry in enumerate(entries):
        what = f"entry {position} of images"
        if not (
            checks.complete(entry, what, _IMAGE_KEYS, integers=("height", "width"))
            and checks.image_id(entry, what, "id")
        ):
            if isinstance(entry, dict) and type(entry.get("id")) in (int, str):
                index_of.setdefault(entry["id"], _INVALID)  # not to miss it for its annotations
            continue
        if not checks.new("image", entry["id"], seen):
            continue
        index_of[entry["id"]] = _INVALID
        height, width = entry["height"], entry["width"]
        if min(height, width) < 1:
            checks.wrong(
                "image without an area",
                f"image {entry['id']} has the size {height} x {width}: correct its height and"
                " width",
            )
        elif checks.file_name(f"image {entry['id']}", entry):
            index_of[entry["id"]] = len(images)
            image_id = position + 1 if in_words else entry["id"]
            images.append(ImageRecord(image_id, str(entry["file_name"])))
            sizes.append((height, width))
    return images, sizes, index_of


def _read_classes(checks: EntryValidator, entries: list[Any]) -> list[ClassInfo]:
    seen: set[Hashable] = set()
    classes = []
    for position, entry in enumerate(entries):
        what = f"entry {position} of categories"
        if checks.complete(entry, what, ("id", "name"), integers=("id",)) and checks.new(
            "category", entry["id"], seen
        ):
            name = str(entry["name"]).strip()
            classes.append(ClassInfo(entry["id"], name, bool(entry.get("isthing", 1))))
    return sorted(classes, key=lambda info: info.category_id)
