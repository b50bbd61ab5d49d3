"""COCO instance annotations: one segment per annotation, as polygons or RLE."""

from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
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
    """One annotation; `segmentation` is unchanged, `area` is None if the file has none."""

    annotation_id: int
    label: int
    segmentation: Any
    crowd: bool
    area: float | None


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
        height, width = self._sizes[index]
        rles, kept = [], []
        for record in self._records[index]:
            try:
                rles.append(to_rle(record.segmentation, height, width))
            except ValueError as reason:
                message = (
                    f"{self.path}: segmentation of annotation {record.annotation_id} (image "
                    f"{self.images[index].file_name}) {reason}; correct or remove the annotation"
                )
                self._on_problem(DataProblem("unreadable segmentation", message))
            else:
                kept.append(record)
        masks = decode(rles, height, width)
        given = [np.nan if record.area is None else record.area for record in kept]
        areas = torch.tensor(given, dtype=torch.float64)
        pixels = torch.from_numpy(masks.sum((1, 2))).double()
        return GroundTruth(
            masks=torch.from_numpy(masks),
            labels=torch.tensor([record.label for record in kept], dtype=torch.int64),
            crowd=torch.tensor([record.crowd for record in kept], dtype=torch.bool),
            areas=torch.where(areas.isnan(), pixels, areas),
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
            area = entry.get("area")
            grouped[file.index_of[entry["image_id"]]].append(
                InstanceRecord(
                    entry["id"],
                    file.label_of[entry["category_id"]],
                    entry["segmentation"],
                    bool(entry.get("iscrowd", 0)),
                    float(area) if isinstance(area, int | float) and isfinite(area) else None,
                )
            )
    return grouped
