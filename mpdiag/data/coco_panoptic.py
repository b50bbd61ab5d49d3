"""COCO-style panoptic annotations: a JSON file of segments, and a PNG of segment ids an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpdiag.data.annotations import ImageRecord
from mpdiag.data.coco_file import CocoFile
from mpdiag.data.files import choose_root
from mpdiag.data.image_files import read_rgb
from mpdiag.data.integer_maps import segments
from mpdiag.data.packed import PackedRecords
from mpdiag.data.problems import DataProblem, ProblemHandler, raise_problem
from mpdiag.data.sample import GroundTruth
from mpdiag.data.segmentation import segment_ids
from mpdiag.errors import DataError

_KEYS = ("image_id", "file_name", "segments_info")
_SEGMENT_KEYS = ("id", "category_id")


@dataclass(frozen=True, slots=True)
class PanopticRecord:
    """The segments of one image: their ids in its PNG, class indices, and which are crowds.

    `left_out` are the ids of entries that were reported as wrong.
    """

    file_name: str
    ids: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    crowds: tuple[bool, ...] = ()
    left_out: tuple[int, ...] = ()


class CocoPanoptic:
    """The annotation source of panoptic files, whose PNGs lie in one of the folders `png_roots`.

    Segments that the file lists and the PNG has no pixel of are empty: Mask2Former's preparation
    of ADE20K leaves such where things cover the stuff behind them.

    Raises DataError where the file holds instances.
    """

    def __init__(
        self, file: CocoFile, png_roots: Sequence[Path], on_problem: ProblemHandler = raise_problem
    ) -> None:
        if file.holds == "instance":
            raise DataError(
                f"{file.path} holds instance annotations, not panoptic ones: ask for task instance"
                " or give the panoptic file"
            )
        self.path = file.path
        self.images = file.images
        self.classes = file.classes
        self._sizes = file.sizes
        records = _by_image(file)
        known = [record or PanopticRecord("") for record in records]
        self._num_objects = [len(record.ids) - sum(record.crowds) for record in known]
        self._num_classes = [len(set(record.labels)) for record in known]
        self._records = PackedRecords(records)
        names = [record.file_name for record in records if record is not None]
        self.png_root = choose_root(file.path, names, png_roots, on_problem)

    def num_objects(self, index: int) -> int:
        return self._num_objects[index]

    def num_classes(self, index: int) -> int:
        """How many classes the segments of an image have, crowds too."""
        return self._num_classes[index]

    def read(self, index: int) -> GroundTruth:
        """The segments of an image, in the order of the file; see Annotations."""
        record: PanopticRecord | None = self._records[index]
        if record is None:
            raise _not_annotated(self.path, self.images[index])
        path = self.png_root / record.file_name
        ids = segment_ids(read_rgb(path))
        if ids.shape != self._sizes[index]:
            height, width = self._sizes[index]
            raise DataProblem(
                "annotation of another size",
                f"{path} is {ids.shape[0]} x {ids.shape[1]} (height x width) but {self.path} lists"
                f" its image as {height} x {width}: they don't belong together",
            )
        unlisted = set(np.unique(ids).tolist()) - {0, *record.ids, *record.left_out}
        if unlisted:
            raise DataProblem(
                "segment that is not listed",
                f"segment {min(unlisted)} of image {self.images[index].file_name} stands in {path}"
                f" but not in {self.path}: the two don't belong together, so fetch both anew",
            )
        return segments(ids, record.ids, record.labels, record.crowds)


def _by_image(file: CocoFile) -> list[PanopticRecord | None]:
    found: dict[int, PanopticRecord] = {}
    seen: set[Any] = set()
    checks = file.checks
    for position, entry in enumerate(file.annotations):
        what = f"entry {position} of annotations"
        if not (checks.complete(entry, what, _KEYS) and checks.image_id(entry, what, "image_id")):
            continue
        what = f"the annotation of image {entry['image_id']}"
        if (
            checks.listed(what, entry["image_id"], file.index_of)
            and checks.new("annotation of image", entry["image_id"], seen)
            and checks.file_name(what, entry)
        ):
            found[file.index_of[entry["image_id"]]] = _record(file, entry, what)
    for index, image in enumerate(file.images):
        if index not in found:
            checks.on_problem(_not_annotated(file.path, image))
    return [found.get(index) for index in range(len(file.images))]


def _not_annotated(path: Path, image: ImageRecord) -> DataProblem:
    return DataProblem(
        "image without panoptic annotation",
        f"{path}: image {image.image_id} ({image.file_name}) has no panoptic annotation: add it or"
        " remove the image from the list",
    )


def _record(file: CocoFile, entry: dict[str, Any], what: str) -> PanopticRecord:
    found: dict[int, tuple[int, bool]] = {}
    left_out = []
    checks = file.checks
    if not isinstance(entry["segments_info"], list):
        checks.wrong("incomplete entry", f'{what} has no list "segments_info": correct it')
        return PanopticRecord(str(entry["file_name"]))
    for segment in entry["segments_info"]:
        if not checks.complete(segment, f"a segment in {what}", _SEGMENT_KEYS, _SEGMENT_KEYS):
            continue
        where = f"segment {segment['id']} in {what}"
        if segment["id"] in found:
            checks.wrong("id listed twice", f"{where} is listed twice: remove one of the two")
        elif checks.category(where, segment["category_id"], file.label_of):
            label = file.label_of[segment["category_id"]]
            found[segment["id"]] = label, bool(segment.get("iscrowd", 0))
        else:
            left_out.append(segment["id"])
    return PanopticRecord(
        str(entry["file_name"]),
        tuple(found),
        tuple(label for label, _ in found.values()),
        tuple(crowd for _, crowd in found.values()),
        tuple(left_out),
    )
