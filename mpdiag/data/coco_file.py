"""Read COCO-format JSON files and validate their images and categories."""

import reprlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mpdiag.data.annotations import ImageRecord
from mpdiag.data.image_files import MAX_PIXELS
from mpdiag.data.problems import DataProblem, ProblemHandler, raise_problem
from mpdiag.data.sample import ClassInfo
from mpdiag.errors import DataError
from mpdiag.untrusted import read_json

AnnotationKind = Literal["instance", "panoptic"]

_IMAGE_KEYS = ("id", "file_name", "height", "width")
_INVALID = -1
_MAX_BYTES = 8 << 30
_MAX_SIDE = 65535


@dataclass(frozen=True, slots=True)
class CocoFile:
    """Content of a COCO-format file.

    Attributes:
        path: the file.
        kind: kind of its annotations, None if it has none.
        images: images in the order of the file.
        sizes: (height, width) of each image.
        index_of: position in `images` by the image id of the file, -1 for an invalid entry.
        classes: classes in the order of their category ids.
        label_of: position in `classes` by category id.
        groups: ids of categories without a supercategory that are the supercategory of others.
        annotations: entries of the file, not yet validated.
        validator: validates the entries of `annotations`.
    """

    path: Path
    kind: AnnotationKind | None
    images: list[ImageRecord]
    sizes: list[tuple[int, int]]
    index_of: dict[Hashable, int]
    classes: list[ClassInfo]
    label_of: dict[int, int]
    groups: frozenset[int]
    annotations: list[Any]
    validator: "EntryValidator"


def read_coco_file(path: Path, on_problem: ProblemHandler = raise_problem) -> CocoFile:
    """Read a COCO-format file and report invalid images and categories.

    Image ids are numbers or strings (ADE20K, Cityscapes). If any id is a string, images are
    numbered from 1 by their position in the file.

    Raises:
        DataError: the file is missing, is not COCO-format, or has no valid image or category.
    """
    content = _load_json(path)
    kind = _annotation_kind(path, content)
    validator = EntryValidator(path, on_problem)
    images, sizes, index_of = _read_images(validator, content["images"])
    classes = _read_classes(validator, content["categories"])
    if not images or not classes:
        raise DataError(f"{path}: has no valid image or category; give a complete COCO file")
    label_of = {info.category_id: label for label, info in enumerate(classes)}
    groups = _find_groups(content["categories"], classes)
    annotations = content["annotations"]
    return CocoFile(
        path, kind, images, sizes, index_of, classes, label_of, groups, annotations, validator
    )


@dataclass(frozen=True, slots=True)
class EntryValidator:
    """Validates single entries of a file; each method reports a problem and returns False."""

    path: Path
    on_problem: ProblemHandler

    def fail(self, kind: str, message: str) -> bool:
        """Report a problem of the file."""
        self.on_problem(DataProblem(kind, f"{self.path}: {message}"))
        return False

    def has_keys(
        self, entry: Any, what: str, keys: Sequence[str], integers: Sequence[str] = ()
    ) -> bool:
        """Check that an entry is a mapping with the keys, and the type of its integer values."""
        if not isinstance(entry, dict):
            return self.fail("incomplete entry", f"{what} is not a JSON object; give a COCO file")
        for key in keys:
            if key not in entry:
                return self.fail(
                    "incomplete entry", f'{what} has no "{key}"; give a complete COCO file'
                )
        for key in integers:
            if type(entry[key]) is not int:
                return self.fail(
                    "wrong type",
                    f'{what} has "{key}": {reprlib.repr(entry[key])}; change it to an integer',
                )
        return True

    def has_image_id(self, entry: dict[str, Any], what: str, key: str) -> bool:
        """Check that the image id is an integer or a string."""
        return type(entry[key]) in (int, str) or self.fail(
            "wrong type",
            f'{what} has "{key}": {reprlib.repr(entry[key])}; change it to an integer or a string',
        )

    def has_flag(self, entry: dict[str, Any], what: str, key: str) -> bool:
        """Check that an optional value is a boolean or 0 or 1: the text "0" would count as true."""
        return entry.get(key) in (0, 1, None) or self.fail(
            "wrong type",
            f'{what} has "{key}": {reprlib.repr(entry[key])}; change it to 0 or 1',
        )

    def is_new(self, kind: str, entry_id: Hashable, seen: set[Hashable]) -> bool:
        """Check that an id occurs for the first time, and add it to `seen`."""
        if entry_id in seen:
            return self.fail(
                "id listed twice", f"{kind} {entry_id} is listed twice; make the ids unique"
            )
        seen.add(entry_id)
        return True

    def image_exists(self, what: str, image_id: Hashable, index_of: Mapping[Hashable, int]) -> bool:
        """Check that the image of an annotation is listed and valid."""
        if image_id not in index_of:
            return self.fail(
                "unknown image",
                f"{what} belongs to image {image_id}, which is not listed; add the image or remove "
                "the annotation",
            )
        return index_of[image_id] != _INVALID

    def category_exists(self, what: str, category_id: int, label_of: Mapping[int, int]) -> bool:
        """Check that a category is listed."""
        return category_id in label_of or self.fail(
            "unknown category",
            f"{what} has category {category_id}, which is not listed; add the category or correct "
            "the annotation",
        )

    def is_inside_folder(self, what: str, entry: dict[str, Any]) -> bool:
        """Check that the file name is relative and names a file inside the folder."""
        name = Path(str(entry["file_name"]))
        return bool(name.name and not name.is_absolute() and ".." not in name.parts) or self.fail(
            "file name outside the folder",
            f"{what} has file name {str(name)!r}, which is not inside the folder; use the relative "
            "name of a file",
        )


def _load_json(path: Path) -> Any:
    try:
        return read_json(path, _MAX_BYTES)
    except FileNotFoundError:
        raise DataError(
            f"{path}: annotation file not found; give the path of a COCO JSON file"
        ) from None
    except OSError as error:
        raise DataError(
            f"{path}: annotation file cannot be read ({error.strerror}); check the path"
        ) from None
    except ValueError as error:
        raise DataError(
            f"{path}: not complete JSON ({error}), possibly truncated; download it again"
        ) from None


def _annotation_kind(path: Path, content: Any) -> AnnotationKind | None:
    """Check the top level of a file and return the kind of its annotations."""
    if not isinstance(content, dict):
        kind = "a list, like a results file" if isinstance(content, list) else "a single value"
        raise DataError(
            f"{path}: not a COCO annotation file but {kind}; give the ground-truth file "
            '("images", "annotations", "categories")'
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise DataError(
                f'{path}: not a COCO annotation file, it has no list "{key}"; give the '
                "ground-truth file"
            )
    for key in ("images", "categories"):
        if not content[key]:
            raise DataError(f'{path}: has an empty list "{key}"; give a file with entries')
    first = next((entry for entry in content["annotations"] if isinstance(entry, dict)), None)
    if first is None:
        return None
    return "panoptic" if "segments_info" in first else "instance"


def _read_images(
    validator: EntryValidator, entries: list[Any]
) -> tuple[list[ImageRecord], list[tuple[int, int]], dict[Hashable, int]]:
    images: list[ImageRecord] = []
    sizes: list[tuple[int, int]] = []
    index_of: dict[Hashable, int] = {}
    seen: set[Hashable] = set()
    string_ids = any(isinstance(entry, dict) and type(entry.get("id")) is str for entry in entries)
    for position, entry in enumerate(entries):
        what = f"entry {position} of images"
        if not (
            validator.has_keys(entry, what, _IMAGE_KEYS, integers=("height", "width"))
            and validator.has_image_id(entry, what, "id")
        ):
            if isinstance(entry, dict) and type(entry.get("id")) in (int, str):
                # Known id: its annotations are not reported as annotations of an unknown image.
                index_of.setdefault(entry["id"], _INVALID)
            continue
        if not validator.is_new("image", entry["id"], seen):
            continue
        index_of[entry["id"]] = _INVALID
        image_id = position + 1 if string_ids else entry["id"]
        height, width = entry["height"], entry["width"]
        if min(height, width) < 1 or max(height, width) > _MAX_SIDE or height * width > MAX_PIXELS:
            validator.fail(
                "image size out of range",
                f"image {entry['id']} has size {height} x {width}; correct its height and width, "
                f"which are 1 to {_MAX_SIDE} and give at most {MAX_PIXELS:,} pixels",
            )
        elif image_id < 0:
            validator.fail(
                "image id out of range",
                f"image {image_id} has a negative id; renumber the images from 1, in their "
                "annotations too",
            )
        elif validator.is_inside_folder(f"image {entry['id']}", entry):
            index_of[entry["id"]] = len(images)
            images.append(ImageRecord(image_id, str(entry["file_name"])))
            sizes.append((height, width))
    return images, sizes, index_of


def _read_classes(validator: EntryValidator, entries: list[Any]) -> list[ClassInfo]:
    seen: set[Hashable] = set()
    classes = []
    for position, entry in enumerate(entries):
        what = f"entry {position} of categories"
        if (
            validator.has_keys(entry, what, ("id", "name"), integers=("id",))
            and validator.has_flag(entry, what, "isthing")
            and validator.is_new("category", entry["id"], seen)
        ):
            name = str(entry["name"]).strip()
            classes.append(ClassInfo(entry["id"], name, bool(entry.get("isthing", 1))))
    return sorted(classes, key=lambda info: info.category_id)


def _find_groups(entries: list[Any], classes: list[ClassInfo]) -> frozenset[int]:
    parents = {
        entry["id"]: str(entry.get("supercategory", "none")).strip()
        for entry in entries
        if isinstance(entry, dict) and type(entry.get("id")) is int
    }
    used = {parents[info.category_id] for info in classes}
    return frozenset(
        info.category_id
        for info in classes
        if parents[info.category_id] == "none" and info.name in used
    )
