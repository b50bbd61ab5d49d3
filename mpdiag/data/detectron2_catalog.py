"""Data sets that are registered in the catalogs of detectron2.

The format of an entry is described in "Use Custom Datasets" of the detectron2 documentation. Its
class indices are contiguous. detectron2 is imported only when a name is looked up.
"""

import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpdiag.choices import Task
from mpdiag.data.annotations import ImageRecord
from mpdiag.data.coco_instances import InstanceRecord, instances_of
from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.files import choose_root
from mpdiag.data.image_files import read_integer_map, read_rgb
from mpdiag.data.integer_maps import ground_truth_from_map
from mpdiag.data.label_maps import IGNORE, class_segments
from mpdiag.data.packed import PackedRecords
from mpdiag.data.problems import DataProblem, ProblemHandler, raise_problem
from mpdiag.data.sample import ClassInfo, GroundTruth
from mpdiag.data.segmentation import MAX_SEGMENT_ID, require_mask_memory, segment_ids
from mpdiag.errors import DataError, DependencyError

Record = Mapping[str, Any]

# Key that entries of a task have. The default task is the first whose key an entry has.
_TASK_OF_KEY: dict[str, Task] = {
    "pan_seg_file_name": "panoptic",
    "annotations": "instance",
    "sem_seg_file_name": "semantic",
}
_KEY_OF_TASK = {task: key for key, task in _TASK_OF_KEY.items()}
_SEGMENTS_KEY = {"instance": "annotations", "panoptic": "segments_info"}


def open_catalog_dataset(
    name: str, task: Task | None = None, on_problem: ProblemHandler = raise_problem
) -> SegmentationDataset | None:
    """Open a data set that is registered in the catalogs of detectron2, None if it is not.

    Args:
        name: registered name; MODULE:NAME first imports the module, which registers the data set.
        task: task to read, None for the kind of the entries.
        on_problem: called with each problem; by default the first one is raised.

    Raises:
        DependencyError: a module is given, but detectron2 is not installed.
        DataError: the module cannot be imported, or the data set cannot be read for the task.
    """
    module, _, key = name.rpartition(":")
    if importlib.util.find_spec("detectron2") is None:
        if module:
            raise DependencyError(
                f"{name}: a registered data set needs detectron2; install it (docs/detectron2.md)"
            )
        return None
    if module:
        import_module(module)
    catalogs = importlib.import_module("detectron2.data")
    if key not in catalogs.DatasetCatalog:
        if module:
            raise DataError(f"{name}: {module} does not register {key}; correct the name")
        return None
    try:
        records: list[Record] = catalogs.DatasetCatalog.get(key)
    except (OSError, AssertionError, LookupError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{key}: the registered function cannot read it ({reason:.200}); check its files"
        ) from None
    task = _choose_task(key, records, task)
    reader = RecordReader(key, catalogs.MetadataCatalog.get(key).as_dict(), task, on_problem)
    root, names = _folder_of(key, records, "file_name")
    if task != "instance":
        annotated = [record for record in records if _KEY_OF_TASK[task] in record]
        maps, map_names = _folder_of(key, annotated, _KEY_OF_TASK[task])
        choose_root(reader.path, map_names, [maps], on_problem)  # reports missing files
    annotations = _CatalogAnnotations(reader, records, names)
    return SegmentationDataset(annotations, root, task=task, name=key, on_problem=on_problem)


def import_module(name: str) -> None:
    """Import a user module that registers data sets.

    Raises:
        DataError: it cannot be imported.
    """
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise DataError(
            f"{name}: cannot be imported ({error}); correct its name, or add its folder to "
            "PYTHONPATH"
        ) from None


class RecordReader:
    """Reads the annotations of the entries of one registered data set.

    Args:
        name: registered name, for messages.
        metadata: metadata of the catalog, with class names and category ids.
        task: which annotations of an entry to read.
        on_problem: called with each problem; by default the first one is raised.

    Raises:
        DataError: the metadata does not define the classes.
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
        """Return the number of segments of an entry without crowds; 1 if only its map shows it."""
        if self.task == "semantic":
            return 1
        return sum(not segment.get("iscrowd", 0) for segment in self._segments(record))

    def mask_shape(self, record: Record) -> tuple[int, int, int] | None:
        """Return the shape (G, H, W) of the masks of an entry; None if it is not listed."""
        if self.task == "semantic" or not {"height", "width"} <= record.keys():
            return None
        return len(self._segments(record)), *_size_of(record)

    def _segments(self, record: Record) -> Sequence[Mapping[str, Any]]:
        segments: Sequence[Mapping[str, Any]] = record.get(_SEGMENTS_KEY[self.task], ())
        return segments

    def read(self, record: Record) -> GroundTruth:
        """Return all segments of an entry.

        Raises:
            DataProblem: they cannot be read.
        """
        if _KEY_OF_TASK[self.task] not in record:
            raise DataProblem(
                "image without annotation",
                f"{self.name}: {record['file_name']} has no annotation of task {self.task}; remove "
                "the entry from the registered data set",
            )
        if self.task == "semantic":
            path = Path(record["sem_seg_file_name"])
            return class_segments(
                read_integer_map(path), path, len(self.classes), self._ignore, self._on_problem
            )
        labels, crowds = self._labels(record)
        if self.task == "panoptic":
            path = Path(record["pan_seg_file_name"])
            ids = segment_ids(read_rgb(path))
            wanted = [int(segment["id"]) for segment in record["segments_info"]]
            if wanted and not 0 <= min(wanted) <= max(wanted) <= MAX_SEGMENT_ID:
                raise DataProblem(
                    "segment id out of range",
                    f"{self.name}: a segment id of {record['file_name']} is not within 0 and "
                    f"{MAX_SEGMENT_ID}; register R + 256 G + 65536 B",
                )
            return ground_truth_from_map(ids, wanted, labels, crowds, path)
        return self._instances(record, labels, crowds)

    def _labels(self, record: Record) -> tuple[list[int], list[bool]]:
        """Class index of each segment, and whether it is a crowd."""
        segments = record[_SEGMENTS_KEY[self.task]]
        labels = [int(one["category_id"]) for one in segments]
        for label in labels:
            if not 0 <= label < len(self.classes):
                raise DataProblem(
                    "class index out of range",
                    f"{self.name}: an object in {record['file_name']} has category_id {label}, but "
                    f"classes are 0 to {len(self.classes) - 1}: register contiguous indices",
                )
        return labels, [bool(one.get("iscrowd", 0)) for one in segments]

    def _instances(
        self, record: Record, labels: Sequence[int], crowds: Sequence[bool]
    ) -> GroundTruth:
        size, file_name = _size_of(record), record["file_name"]
        require_mask_memory((len(labels), *size), Path(file_name))
        every = zip(record["annotations"], labels, crowds, strict=True)
        records = [
            InstanceRecord(index, label, _as_json(one.get("segmentation")), crowd, one.get("area"))
            for index, (one, label, crowd) in enumerate(every)
        ]
        return instances_of(records, size, self.name, file_name, self._on_problem)


def _folder_of(name: str, records: Sequence[Record], key: str) -> tuple[Path, list[str]]:
    """Return the folder with the files that the entries have at a key, and their names in it."""
    try:
        files = [Path(record[key]) for record in records]
        folder = Path(os.path.commonpath([file.parent for file in files]))
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{name}: its entries need a {key} each, all absolute or all relative; correct the "
            "registered function"
        ) from None
    return folder, [file.relative_to(folder).as_posix() for file in files]


class _CatalogAnnotations:
    """Annotations (see `Annotations`) of all entries, whose images have the given names.

    If an image id is not an integer from 0 to 2^63 - 1, or occurs twice, ids count from 1.
    """

    def __init__(
        self, reader: RecordReader, records: Sequence[Record], names: Sequence[str]
    ) -> None:
        self.path = reader.path
        self.classes = reader.classes
        numbers = [
            image_id
            for record in records
            if isinstance(image_id := record.get("image_id"), int) and 0 <= image_id < 1 << 63
        ]
        if len(set(numbers)) < len(records):
            numbers = list(range(1, len(records) + 1))
        self.images = [
            ImageRecord(number, name) for number, name in zip(numbers, names, strict=True)
        ]
        self._reader = reader
        self._num_objects = [reader.num_objects(record) for record in records]
        self._records = PackedRecords(records)

    def num_objects(self, index: int) -> int:
        return self._num_objects[index]

    def mask_shape(self, index: int) -> tuple[int, int, int] | None:
        return self._reader.mask_shape(self._records[index])

    def read(self, index: int) -> GroundTruth:
        return self._reader.read(self._records[index])


def _choose_task(name: str, records: Sequence[Record], task: Task | None) -> Task:
    if not records:
        raise DataError(f"{name}: contains no images; choose another data set")
    available = [kind for key, kind in _TASK_OF_KEY.items() if key in records[0]]
    if available and (task is None or task in available):
        return task or available[0]
    raise DataError(
        f"{name}: has no annotations of task {task or 'any'}, only {' and '.join(available) or '-'}"
        "; choose another task or data set"
    )


def _classes(name: str, metadata: Mapping[str, Any], task: Task) -> list[ClassInfo]:
    """Return the classes in the order of their contiguous indices.

    For panoptic and semantic tasks, things must be listed among the stuff classes (the "standard"
    form of detectron2, as in Mask2Former). The other form uses each index twice.
    """
    things = dict(metadata.get("thing_dataset_id_to_contiguous_id", {}))
    stuff = {} if task == "instance" else metadata.get("stuff_dataset_id_to_contiguous_id", {})
    names = list(metadata.get("thing_classes" if task == "instance" else "stuff_classes", ()))
    ids: dict[int, int] = {}
    for category_id, label in (*things.items(), *stuff.items()):
        if ids.setdefault(label, category_id) != category_id:
            raise DataError(
                f"{name}: a thing class and a stuff class both have index {label}; register one "
                'index per class (the "standard" form)'
            )
    if not names or any(not 0 <= label < len(names) for label in ids):
        raise DataError(
            f"{name}: its metadata names {len(names)} classes for task {task}, but has more; set "
            f"{'thing' if task == 'instance' else 'stuff'}_classes in MetadataCatalog"
        )
    thing_labels = set(things.values())
    return [
        ClassInfo(ids.get(label, label), str(text), task == "instance" or label in thing_labels)
        for label, text in enumerate(names)
    ]


def _size_of(record: Record) -> tuple[int, int]:
    """Return the (height, width) of an entry, from its image if the entry has none."""
    if "height" in record and "width" in record:
        return int(record["height"]), int(record["width"])
    height, width = read_rgb(Path(record["file_name"])).shape[:2]  # rotated by EXIF
    return height, width


def _as_json(segmentation: Any) -> Any:
    """Return the form of JSON files; detectron2 also accepts RLE counts as bytes."""
    if isinstance(segmentation, Mapping) and isinstance(segmentation.get("counts"), bytes):
        return {**segmentation, "counts": segmentation["counts"].decode("ascii")}
    return segmentation
