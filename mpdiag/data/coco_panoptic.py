"""COCO panoptic annotations: a JSON file of segments, and one PNG of segment ids per image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpdiag.data.annotations import ImageRecord
from mpdiag.data.coco_file import CocoFile
from mpdiag.data.files import choose_root
from mpdiag.data.image_files import read_rgb, read_size
from mpdiag.data.integer_maps import ground_truth_from_map
from mpdiag.data.packed import PackedRecords
from mpdiag.data.problems import DataProblem, ProblemHandler, raise_problem
from mpdiag.data.sample import GroundTruth
from mpdiag.data.segmentation import MAX_SEGMENT_ID, segment_ids
from mpdiag.errors import DataError

_KEYS = ("image_id", "file_name", "segments_info")
_SEGMENT_KEYS = ("id", "category_id")


@dataclass(frozen=True, slots=True)
class PanopticRecord:
    """Segments of one image: ids in its PNG, class indices, and crowd flags.

    `invalid_ids` are the ids of entries that were reported as invalid.
    """

    file_name: str
    ids: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    crowds: tuple[bool, ...] = ()
    invalid_ids: tuple[int, ...] = ()


class CocoPanoptic:
    """Annotations (see `Annotations`) of COCO panoptic files.

    A segment without pixels in the PNG is empty. The preparation of ADE20K in Mask2Former creates
    such segments where things cover the stuff behind them.

    Args:
        file: the annotation file.
        png_roots: candidate folders of the PNGs; the one with most files is used.
        on_problem: called with each problem.

    Raises:
        DataError: the file contains instance annotations.
    """

    def __init__(
        self, file: CocoFile, png_roots: Sequence[Path], on_problem: ProblemHandler = raise_problem
    ) -> None:
        if file.kind == "instance":
            raise DataError(
                f"{file.path}: contains instance annotations; choose task instance or give the "
                "panoptic file"
            )
        self.path = file.path
        self.images = file.images
        self.classes = file.classes
        self._sizes = file.sizes
        records = _by_image(file)
        known = [record or PanopticRecord("") for record in records]
        self._num_objects = [len(record.ids) - sum(record.crowds) for record in known]
        self._num_classes = [len(set(record.labels)) for record in known]
        self._num_masks = [len(record.ids) for record in known]
        self._records = PackedRecords(records)
        names = [record.file_name for record in records if record is not None]
        self.png_root = choose_root(file.path, names, png_roots, on_problem)

    def num_objects(self, index: int) -> int:
        return self._num_objects[index]

    def num_classes(self, index: int) -> int:
        """Return the number of classes among the segments of an image, crowds included."""
        return self._num_classes[index]

    def mask_shape(self, index: int) -> tuple[int, int, int]:
        return self._num_masks[index], *self._sizes[index]

    def read(self, index: int) -> GroundTruth:
        """Return the segments of an image in the order of the file."""
        record: PanopticRecord | None = self._records[index]
        if record is None:
            raise _not_annotated(self.path, self.images[index])
        path = self.png_root / record.file_name
        self._require_size(index, path, read_size(path), rotated=True)
        ids = segment_ids(read_rgb(path))
        self._require_size(index, path, ids.shape)
        unlisted = set(np.unique(ids).tolist()) - {0, *record.ids, *record.invalid_ids}
        if unlisted:
            raise DataProblem(
                "segment that is not listed",
                f"{path}: contains segment {min(unlisted)} of image "
                f"{self.images[index].file_name}, which {self.path} does not list; use files of "
                "the same release",
            )
        return ground_truth_from_map(ids, record.ids, record.labels, record.crowds, path)

    def _require_size(
        self, index: int, path: Path, size: tuple[int, ...], rotated: bool = False
    ) -> None:
        """Raise DataProblem for another size than the listed one; EXIF may rotate a PNG."""
        height, width = self._sizes[index]
        if size != (height, width) and not (rotated and size == (width, height)):
            raise DataProblem(
                "annotation of another size",
                f"{path}: is {size[0]} x {size[1]} (height x width), but {self.path} lists its "
                f"image as {height} x {width}; use files of the same release",
            )


def _by_image(file: CocoFile) -> list[PanopticRecord | None]:
    """Return the record of each image, None if it has no valid annotation."""
    found: dict[int, PanopticRecord] = {}
    seen: set[Any] = set()
    validator = file.validator
    for position, entry in enumerate(file.annotations):
        what = f"entry {position} of annotations"
        if not (
            validator.has_keys(entry, what, _KEYS)
            and validator.has_image_id(entry, what, "image_id")
        ):
            continue
        what = f"the annotation of image {entry['image_id']}"
        if (
            validator.image_exists(what, entry["image_id"], file.index_of)
            and validator.is_new("annotation of image", entry["image_id"], seen)
            and validator.is_inside_folder(what, entry)
        ):
            found[file.index_of[entry["image_id"]]] = _record(file, entry, what)
    for index, image in enumerate(file.images):
        if index not in found:
            validator.on_problem(_not_annotated(file.path, image))
    return [found.get(index) for index in range(len(file.images))]


def _not_annotated(path: Path, image: ImageRecord) -> DataProblem:
    return DataProblem(
        "image without panoptic annotation",
        f"{path}: image {image.image_id} ({image.file_name}) has no panoptic annotation; add it or "
        "remove the image from the list",
    )


def _record(file: CocoFile, entry: dict[str, Any], what: str) -> PanopticRecord:
    found: dict[int, tuple[int, bool]] = {}
    invalid_ids = []
    validator = file.validator
    if not isinstance(entry["segments_info"], list):
        validator.fail("incomplete entry", f'{what} has no list "segments_info"; correct it')
        return PanopticRecord(str(entry["file_name"]))
    for segment in entry["segments_info"]:
        if not validator.has_keys(segment, f"a segment in {what}", _SEGMENT_KEYS, _SEGMENT_KEYS):
            continue
        where = f"segment {segment['id']} in {what}"
        if not 0 <= segment["id"] <= MAX_SEGMENT_ID:
            validator.fail(
                "segment id out of range",
                f"{where} has no color; ids are R + 256 G + 65536 B, at most {MAX_SEGMENT_ID}, "
                "so correct the id",
            )
        elif segment["id"] in found:
            validator.fail("id listed twice", f"{where} is listed twice; remove one of the two")
        elif validator.category_exists(
            where, segment["category_id"], file.label_of
        ) and validator.has_flag(segment, where, "iscrowd"):
            label = file.label_of[segment["category_id"]]
            found[segment["id"]] = label, bool(segment.get("iscrowd", 0))
        else:
            invalid_ids.append(segment["id"])
    return PanopticRecord(
        str(entry["file_name"]),
        tuple(found),
        tuple(label for label, _ in found.values()),
        tuple(crowd for _, crowd in found.values()),
        tuple(invalid_ids),
    )
