"""COCO instance annotations: one segment per annotation, as polygons or RLE."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any

import torch

from mpdiag.data.coco_file import CocoFile
from mpdiag.data.packed import PackedRecords
from mpdiag.data.problems import DataProblem, ProblemHandler, raise_problem
from mpdiag.data.sample import GroundTruth
from mpdiag.data.segmentation import decode, to_rle
from mpdiag.errors import DataError

_KEYS = ("id", "image_id", "category_id", "segmentation")


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One annotation; `segmentation` and `area` are unchanged, `area` is None without one."""

    annotation_id: int
    label: int
    segmentation: Any
    crowd: bool
    area: Any


class CocoInstances:
    """Annotations (see `Annotations`) of COCO instance files (instances_*.json).

    Records are kept in memory. Masks are decoded when an image is read.

    Raises:
        DataError: the file contains panoptic annotations.
    """

    def __init__(self, file: CocoFile, on_problem: ProblemHandler = raise_problem) -> None:
        if file.kind == "panoptic":
            raise DataError(
                f"{file.path}: contains panoptic annotations; choose task panoptic or give the "
                "instance file"
            )
        self.path = file.path
        self.images = file.images
        self.classes = file.classes
        self._sizes = file.sizes
        self._on_problem = on_problem
        grouped = _by_image(file)
        self._num_objects = [sum(not record.crowd for record in records) for records in grouped]
        self._num_masks = [len(records) for records in grouped]
        self._records = PackedRecords(grouped)

    def num_objects(self, index: int) -> int:
        return self._num_objects[index]

    def mask_shape(self, index: int) -> tuple[int, int, int]:
        return self._num_masks[index], *self._sizes[index]

    def read(self, index: int) -> GroundTruth:
        """Return the segments of an image in the order of the file."""
        name, size = self.images[index].file_name, self._sizes[index]
        return instances_of(self._records[index], size, self.path, name, self._on_problem)


def instances_of(
    records: Sequence[InstanceRecord],
    size: tuple[int, int],
    source: Path | str,
    image: str,
    on_problem: ProblemHandler,
) -> GroundTruth:
    """Return the segments of an image in their order.

    Args:
        records: its annotations.
        size: its (height, width).
        source: file or data set of the annotations, for messages.
        image: file name of the image, for messages.
        on_problem: called with each segmentation that cannot be read, which is left out.
    """
    rles, kept = [], []
    for record in records:
        try:
            rles.append(to_rle(record.segmentation, *size))
        except ValueError as reason:
            message = (
                f"{source}: segmentation of annotation {record.annotation_id} (image {image}) "
                f"{reason}; correct or remove the annotation"
            )
            on_problem(DataProblem("unreadable segmentation", message))
        else:
            kept.append(record)
    masks = torch.from_numpy(decode(rles, *size))
    areas = [
        record.area if isinstance(record.area, Real) and isfinite(record.area) else pixels
        for record, pixels in zip(kept, masks.sum((1, 2)).tolist(), strict=True)
    ]
    return GroundTruth(
        masks=masks,
        labels=torch.tensor([record.label for record in kept], dtype=torch.int64),
        crowd=torch.tensor([record.crowd for record in kept], dtype=torch.bool),
        areas=torch.tensor(areas, dtype=torch.float64),
    )


def _by_image(file: CocoFile) -> list[list[InstanceRecord]]:
    """Return the valid annotations of each image."""
    grouped: list[list[InstanceRecord]] = [[] for _ in file.images]
    seen: set[Any] = set()
    validator = file.validator
    for position, entry in enumerate(file.annotations):
        what = f"entry {position} of annotations"
        if not (
            validator.has_keys(entry, what, _KEYS, integers=("id", "category_id"))
            and validator.has_image_id(entry, what, "image_id")
            and validator.is_new("annotation", entry["id"], seen)
        ):
            continue
        what = f"annotation {entry['id']}"
        if (
            validator.image_exists(what, entry["image_id"], file.index_of)
            and validator.category_exists(what, entry["category_id"], file.label_of)
            and validator.has_flag(entry, what, "iscrowd")
        ):
            grouped[file.index_of[entry["image_id"]]].append(
                InstanceRecord(
                    entry["id"],
                    file.label_of[entry["category_id"]],
                    entry["segmentation"],
                    bool(entry.get("iscrowd", 0)),
                    entry.get("area"),
                )
            )
    return grouped
