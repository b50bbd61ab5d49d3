"""Data sets that are registered in detectron2's catalogs, read as ours are.

What an entry holds: "Use Custom Datasets" in detectron2's documentation. Class indices are already
contiguous there. detectron2 is imported only when a name is looked up.
"""

import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mpdiag.choices import Task
from mpdiag.data.annotations import ImageRecord
from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.image_files import read_integer_map, read_rgb
from mpdiag.data.integer_maps import segments
from mpdiag.data.label_maps import IGNORE, class_segments
from mpdiag.data.packed import PackedRecords
from mpdiag.data.problems import DataProblem, ProblemHandler, raise_problem
from mpdiag.data.sample import ClassInfo, GroundTruth
from mpdiag.data.segmentation import decode, segment_ids, to_rle
from mpdiag.errors import DataError, DependencyError

Record = Mapping[str, Any]

# What an entry of each task has; the first that a data set's entries have is its task by default.
_HOLDS: dict[str, Task] = {
    "pan_seg_file_name": "panoptic",
    "annotations": "instance",
    "sem_seg_file_name": "semantic",
}
_NEEDS = {task: key for key, task in _HOLDS.items()}


def open_catalog_dataset(
    name: str, task: Task | None = None, on_problem: ProblemHandler = raise_problem
) -> SegmentationDataset | None:
    """The data set that detectron2's catalogs have under a name; None where they have none.

    Args:
        name: as registered; MODULE:NAME imports a module of the user's first, which registers it.
        task: None for what the entries hold.
        on_problem: what is done with what is wrong.

    Raises:
        DependencyError: a module is named, but detectron2 is not installed.
        DataError: the module can't be imported, or the data set not read, or not for this task.
    """
    module, _, key = name.rpartition(":")
    if importlib.util.find_spec("detectron2") is None:
        if module:
            raise DependencyError(
                f"{name}: names a data set in detectron2's catalogs, and detectron2 is not "
                "installed (docs/detectron2.md)"
            )
        return None
    if module:
        import_module(module)
    catalogs = importlib.import_module("detectron2.data")
    if key not in catalogs.DatasetCatalog:
        if module:
            raise DataError(f"{name}: {module} registers no data set {key}; correct the name")
        return None
    try:
        records: list[Record] = catalogs.DatasetCatalog.get(key)
    except (OSError, AssertionError, LookupError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{key}: what registered it can't read it ({reason:.200}); see to its files"
        ) from None
    kind = _task_of(key, records, task)
    reader = RecordReader(key, catalogs.MetadataCatalog.get(key).as_dict(), kind, on_problem)
    root = Path(os.path.commonpath([Path(record["file_name"]).parent for record in records]))
    annotations = _Records(reader, records, root)
    return SegmentationDataset(annotations, root, task=kind, name=key, on_problem=on_problem)


def import_module(name: str) -> None:
    """Import a module of the user's that registers data sets.

    Raises:
        DataError: it can't be imported.
    """
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise DataError(
            f"{name}: can't be imported ({error}); correct its name, or put its folder into "
            "PYTHONPATH"
        ) from None


class RecordReader:
    """Reads what entries of one registered data set are annotated with.

    name      as registered, for messages
    metadata  of the catalog: class names, and their ids in the data set by contiguous index
    task      which of an entry's annotations are read

    DataError where the metadata does not tell the classes.
    """

    def __init__(
        self,
        name: str,
        metadata: Mapping[str, Any],
        task: Task,
        on_problem: ProblemHandler = raise_problem,
    ) -> None:
        self.name = name
        self.task = task
        self.classes = _classes(name, metadata, task)
        self._ignore = int(metadata.get("ignore_label", IGNORE))
        self._on_problem = on_problem
        file = metadata.get("panoptic_json" if task == "panoptic" else "json_file")
        self.path = Path(file or name)

    def num_objects(self, record: Record) -> int:
        """How many segments an entry has, crowds left out; 1 where only its map tells."""
        key = {"instance": "annotations", "panoptic": "segments_info"}.get(self.task)
        if key is None:
            return 1
        return sum(not one.get("iscrowd", 0) for one in record.get(key, ()))

    def read(self, record: Record) -> GroundTruth:
        """All segments of an entry. DataProblem where they can't be read."""
        if _NEEDS[self.task] not in record:
            raise DataProblem(
                "image without annotation",
                f"{self.name}: {record['file_name']} has no annotation of task {self.task}: leave "
                "it out where the data set is registered",
            )
        if self.task == "semantic":
            path = Path(record["sem_seg_file_name"])
            return class_segments(
                read_integer_map(path), path, len(self.classes), self._ignore, self._on_problem
            )
        labels, crowds = self._labels(record)
        if self.task == "panoptic":
            ids = segment_ids(read_rgb(Path(record["pan_seg_file_name"])))
            wanted = [int(one["id"]) for one in record["segments_info"]]
            return segments(ids, wanted, labels, crowds)
        return self._instances(record, labels, crowds)

    def _labels(self, record: Record) -> tuple[list[int], list[bool]]:
        """Class index of each segment, and whether it is a crowd."""
        key = "annotations" if self.task == "instance" else "segments_info"
        labels = [int(one["category_id"]) for one in record[key]]
        for label in labels:
            if not 0 <= label < len(self.classes):
                raise DataProblem(
                    "class index out of range",
                    f"{self.name}: an object in {record['file_name']} has category_id {label}, but "
                    f"classes are 0 to {len(self.classes) - 1}: register contiguous indices",
                )
        return labels, [bool(one.get("iscrowd", 0)) for one in record[key]]

    def _instances(
        self, record: Record, labels: Sequence[int], crowds: Sequence[bool]
    ) -> GroundTruth:
        height, width = _size_of(record)
        rles = []
        for one in record["annotations"]:
            try:
                rles.append(to_rle(_as_in_json(one.get("segmentation")), height, width))
            except ValueError as reason:
                raise DataProblem(
                    "unreadable segmentation",
                    f"{self.name}: a segmentation in {record['file_name']} {reason}: correct or "
                    "remove the annotation",
                ) from None
        masks = torch.from_numpy(decode(rles, height, width))
        pixels = masks.sum((1, 2)).tolist()
        areas = [one.get("area", n) for one, n in zip(record["annotations"], pixels, strict=True)]
        return GroundTruth(
            masks=masks,
            labels=torch.tensor(labels, dtype=torch.int64),
            crowd=torch.tensor(crowds, dtype=torch.bool),
            areas=torch.tensor(areas, dtype=torch.float64),
        )


class _Records:
    """The annotation source of all entries; see Annotations.

    File names are relative to `root`. Images without whole numbers as ids are counted from 1.
    """

    def __init__(self, reader: RecordReader, records: Sequence[Record], root: Path) -> None:
        self.path = reader.path
        self.classes = reader.classes
        numbers = [
            image_id for record in records if isinstance(image_id := record.get("image_id"), int)
        ]
        if len(numbers) < len(records):
            numbers = list(range(1, len(records) + 1))
        self.images = [
            ImageRecord(number, Path(record["file_name"]).relative_to(root).as_posix())
            for number, record in zip(numbers, records, strict=True)
        ]
        self._reader = reader
        self._num_objects = [reader.num_objects(record) for record in records]
        self._records = PackedRecords(records)

    def num_objects(self, index: int) -> int:
        return self._num_objects[index]

    def read(self, index: int) -> GroundTruth:
        return self._reader.read(self._records[index])


def _task_of(name: str, records: Sequence[Record], asked: Task | None) -> Task:
    if not records:
        raise DataError(f"{name}: is registered, but holds no image; choose another data set")
    held = [task for key, task in _HOLDS.items() if key in records[0]]
    if asked in held or (asked is None and held):
        return asked or held[0]
    have = f"of {' and '.join(held)}" if held else "none"
    raise DataError(
        f"{name}: has no annotations of task {asked or 'any'} (it has {have}); choose another task "
        "or data set"
    )


def _classes(name: str, metadata: Mapping[str, Any], task: Task) -> list[ClassInfo]:
    """Classes in the order of their contiguous indices.

    Data sets with panoptic segments or class maps list things among the stuff, as detectron2's
    "standard" form and Mask2Former do; one that lists them apart gives both the same index.
    """
    things = dict(metadata.get("thing_dataset_id_to_contiguous_id", {}))
    stuff = {} if task == "instance" else metadata.get("stuff_dataset_id_to_contiguous_id", {})
    names = list(metadata.get("thing_classes" if task == "instance" else "stuff_classes", ()))
    ids: dict[int, int] = {}
    for category_id, label in (*things.items(), *stuff.items()):
        if ids.setdefault(label, category_id) != category_id:
            raise DataError(
                f"{name}: things and stuff have class index {label} both, so that it is no one "
                'class; register one index for each class (the "standard" form)'
            )
    if not names or any(not 0 <= label < len(names) for label in ids):
        raise DataError(
            f"{name}: its metadata names {len(names)} classes for task {task}, which are not all; "
            f"set {'thing' if task == 'instance' else 'stuff'}_classes in MetadataCatalog"
        )
    countable = set(things.values())
    return [
        ClassInfo(ids.get(label, label), str(text), task == "instance" or label in countable)
        for label, text in enumerate(names)
    ]


def _size_of(record: Record) -> tuple[int, int]:
    """(height, width) of an entry, which may leave them to the image."""
    if "height" in record and "width" in record:
        return int(record["height"]), int(record["width"])
    height, width = read_rgb(Path(record["file_name"])).shape[:2]
    return height, width


def _as_in_json(segmentation: Any) -> Any:
    """The form that JSON files have: detectron2 packs run lengths to bytes."""
    if isinstance(segmentation, Mapping) and isinstance(segmentation.get("counts"), bytes):
        return {**segmentation, "counts": segmentation["counts"].decode("ascii")}
    return segmentation
