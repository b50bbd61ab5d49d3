"""Read a data set as training does, collect all its problems, and count its objects."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path

from torch import Tensor

from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.problems import DataProblem
from mpdiag.data.registry import load_dataset
from mpdiag.data.sample import ClassInfo, GroundTruth
from mpdiag.errors import DataError
from mpdiag.printable import printable

MAX_EXAMPLES = 3
SMALL, MEDIUM = 32**2, 96**2  # upper limits of the COCO object sizes, in pixels


@dataclass(slots=True)
class ProblemGroup:
    """Number of problems of one kind, with the first examples."""

    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ClassCount:
    """Images and objects of a class; `objects` is the sum of the sizes and has no crowds."""

    images: int = 0
    objects: int = 0
    small: int = 0
    medium: int = 0
    large: int = 0
    crowds: int = 0

    def __add__(self, other: "ClassCount") -> "ClassCount":
        return ClassCount(*map(sum, zip(astuple(self), astuple(other), strict=True)))


@dataclass(slots=True)
class CheckResult:
    """Result of a check.

    Attributes:
        dataset: the data set, None if it cannot be opened.
        errors: problems that stop training or evaluation, by kind.
        warnings: suspicious but harmless findings, by kind.
        images: number of images that were read.
        counts: count of each class over these images.
    """

    dataset: SegmentationDataset | None = None
    errors: dict[str, ProblemGroup] = field(default_factory=dict)
    warnings: dict[str, ProblemGroup] = field(default_factory=dict)
    images: int = 0
    counts: list[ClassCount] = field(default_factory=list)

    def add_error(self, problem: DataProblem) -> None:
        _add(self.errors, problem.kind, str(problem), problem.count)

    def add_warning(self, kind: str, example: str) -> None:
        _add(self.warnings, kind, example, 1)


def check_dataset(
    dataset: str,
    *,
    root: Path | None = None,
    split: str | None = None,
    task: str | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CheckResult:
    """Check a data set.

    Args:
        dataset, root, split, task: arguments of `load_dataset`.
        limit: number of images to read; the annotation lists are always checked completely.
        progress: called with (images read, images to read).
    """
    result = CheckResult()
    try:
        data = load_dataset(dataset, root=root, split=split, task=task, on_problem=result.add_error)
    except DataError as error:
        result.add_error(DataProblem("data set that cannot be opened", str(error)))
        return result
    result.dataset = data
    result.counts = [ClassCount() for _ in data.classes]
    total = min(limit or len(data), len(data))
    # Problems of the lists occur again when the images are read; do not count them twice.
    reported = set(result.errors)
    for index in range(total):
        for problem in _check_image(data, index, result):
            if problem.kind not in reported:
                result.add_error(problem)
        result.images += 1
        if progress is not None:
            progress(index + 1, total)
    _check_lists(data, result)
    return result


def classes_by_frequency(result: CheckResult) -> list[tuple[ClassInfo, ClassCount]]:
    """Return the classes that occur, most frequent first."""
    if result.dataset is None:
        return []
    pairs = zip(result.dataset.classes, result.counts, strict=True)
    return sorted((pair for pair in pairs if pair[1].images), key=lambda pair: -pair[1].objects)


def _add(groups: dict[str, ProblemGroup], kind: str, example: str, count: int) -> None:
    group = groups.setdefault(kind, ProblemGroup())
    group.count += count
    if len(group.examples) < MAX_EXAMPLES:
        group.examples.append(printable(example))


def _check_image(
    data: SegmentationDataset, index: int, result: CheckResult
) -> Iterator[DataProblem]:
    """Read an image and its annotation, yield their problems, and add warnings and counts."""
    ground_truth: GroundTruth | None = None
    image: Tensor | None = None
    try:
        ground_truth = data.ground_truth(index)
    except DataProblem as problem:
        yield problem
    try:
        image = data.image(index)
    except DataProblem as problem:
        yield problem
    if ground_truth is None:
        return
    _add_segment_warnings(data, index, ground_truth, result)
    _count(ground_truth, result.counts)
    try:
        if image is not None:
            data.sample(index, image, ground_truth)
    except DataProblem as problem:
        yield problem


def _add_segment_warnings(
    data: SegmentationDataset, index: int, ground_truth: GroundTruth, result: CheckResult
) -> None:
    name = data.file_name(index)
    if not len(ground_truth.labels):
        result.add_warning("image without annotation", name)
    elif ground_truth.crowd.all():
        result.add_warning("image with crowds only", name)
    seen = set()
    for row, label in enumerate(ground_truth.labels.tolist()):
        segment = f"{name}: segment {row + 1} ({data.classes[label].name})"
        mask = ground_truth.masks[row]
        ys, xs = mask.any(1).nonzero()[:, 0].tolist(), mask.any(0).nonzero()[:, 0].tolist()
        if not ys:
            result.add_warning("empty segment", segment)
            continue
        top, bottom, left, right = ys[0], ys[-1] + 1, xs[0], xs[-1] + 1
        if min(bottom - top, right - left) == 1 and data.task == "instance":
            result.add_warning("mask one pixel wide or high", segment)
        key = label, top, bottom, left, right, mask[top:bottom, left:right].numpy().tobytes()
        if key in seen:
            result.add_warning("segment annotated twice", segment)
        seen.add(key)


def _count(ground_truth: GroundTruth, counts: list[ClassCount]) -> None:
    for label in ground_truth.labels.unique().tolist():
        of_class, crowd = ground_truth.labels == label, ground_truth.crowd
        areas = ground_truth.areas[of_class & ~crowd]
        small, medium = int((areas <= SMALL).sum()), int((areas <= MEDIUM).sum())
        count, crowds = len(areas), int((of_class & crowd).sum())
        counts[label] += ClassCount(1, count, small, medium - small, count - medium, crowds)


def _check_lists(data: SegmentationDataset, result: CheckResult) -> None:
    names = Counter(data.file_name(index) for index in range(len(data)))
    for name, count in names.items():
        if count > 1:
            result.add_warning("image file listed twice", name)
    if result.images == len(data):
        for info, class_count in zip(data.classes, result.counts, strict=True):
            if not class_count.images:
                result.add_warning("class without images", info.name)
