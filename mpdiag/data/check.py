"""Read a data set as training would, list all that is wrong with it, and count what it holds."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.problems import DataProblem
from mpdiag.data.registry import load_dataset
from mpdiag.data.sample import ClassInfo, GroundTruth
from mpdiag.errors import DataError

EXAMPLES = 3
SMALL, MEDIUM = 32**2, 96**2  # pixels; COCO's sizes


@dataclass(slots=True)
class ProblemGroup:
    """What was found so many times, with the first examples."""

    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ClassCount:
    """How often a class occurs: images, and objects in all, by size, and crowds beside them."""

    images: int = 0
    objects: int = 0
    small: int = 0
    medium: int = 0
    large: int = 0
    crowds: int = 0

    def __add__(self, other: "ClassCount") -> "ClassCount":
        return ClassCount(
            self.images + other.images,
            self.objects + other.objects,
            self.small + other.small,
            self.medium + other.medium,
            self.large + other.large,
            self.crowds + other.crowds,
        )


@dataclass(slots=True)
class CheckResult:
    """What a check found.

    Attributes:
        dataset: None where it could not be opened at all.
        errors: by kind, what makes training or evaluation stop.
        warnings: by kind, what is suspicious and does no harm.
        images: how many images were read.
        counts: of each class, over the images read.
    """

    dataset: SegmentationDataset | None = None
    errors: dict[str, ProblemGroup] = field(default_factory=dict)
    warnings: dict[str, ProblemGroup] = field(default_factory=dict)
    images: int = 0
    counts: list[ClassCount] = field(default_factory=list)

    def error(self, problem: DataProblem) -> None:
        _note(self.errors, problem.kind, str(problem), problem.count)

    def warn(self, kind: str, example: str) -> None:
        _note(self.warnings, kind, example, 1)


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
        dataset, root, split, task: as `load_dataset` takes them.
        limit: read the first so many images; the lists are always checked in full.
        progress: called with (images read, images to read).
    """
    checked = CheckResult()
    try:
        data = load_dataset(dataset, root=root, split=split, task=task, on_problem=checked.error)
    except DataError as error:
        checked.error(DataProblem("data set that can't be opened", str(error)))
        return checked
    checked.dataset = data
    checked.counts = [ClassCount() for _ in data.classes]
    total = min(limit or len(data), len(data))
    # What was reported of the lists is met again when the images are read.
    known = set(checked.errors)
    for index in range(total):
        for problem in _read(data, index, checked):
            if problem.kind not in known:
                checked.error(problem)
        checked.images += 1
        if progress is not None:
            progress(index + 1, total)
    _look_at_whole(data, checked)
    return checked


def _note(findings: dict[str, ProblemGroup], kind: str, example: str, count: int) -> None:
    finding = findings.setdefault(kind, ProblemGroup())
    finding.count += count
    if len(finding.examples) < EXAMPLES:
        finding.examples.append(example)


def _read(data: SegmentationDataset, index: int, checked: CheckResult) -> Iterator[DataProblem]:
    """Read an image and its annotation, and look at what can be read of them."""
    truth: GroundTruth | None = None
    image: Tensor | None = None
    try:
        truth = data.ground_truth(index)
    except DataProblem as problem:
        yield problem
    try:
        image = data.image(index)
    except DataProblem as problem:
        yield problem
    if truth is None:
        return
    _look_at(data, index, truth, checked)
    _count(truth, checked.counts)
    try:
        if image is not None:
            data.sample(index, image, truth)
    except DataProblem as problem:
        yield problem


def _look_at(
    data: SegmentationDataset, index: int, truth: GroundTruth, checked: CheckResult
) -> None:
    name = data.file_name(index)
    if not len(truth.labels):
        checked.warn("image without annotation", name)
    elif truth.crowd.all():
        checked.warn("image with crowds only", name)
    seen = set()
    for row, label in enumerate(truth.labels.tolist()):
        what = f"{data.classes[label].name}, number {row + 1} of {name}"
        mask = truth.masks[row]
        ys, xs = mask.any(1).nonzero()[:, 0].tolist(), mask.any(0).nonzero()[:, 0].tolist()
        if not ys:
            checked.warn("segment without a pixel", what)
            continue
        top, bottom, left, right = ys[0], ys[-1] + 1, xs[0], xs[-1] + 1
        if min(bottom - top, right - left) == 1 and data.task == "instance":
            checked.warn("mask one pixel wide or high", what)
        key = label, top, bottom, left, right, mask[top:bottom, left:right].numpy().tobytes()
        if key in seen:
            checked.warn("segment annotated twice", what)
        seen.add(key)


def _count(truth: GroundTruth, counts: list[ClassCount]) -> None:
    for label in truth.labels.unique().tolist():
        areas = truth.areas[(truth.labels == label) & ~truth.crowd]
        crowds = int((truth.crowd & (truth.labels == label)).sum())
        small, medium = int((areas <= SMALL).sum()), int((areas <= MEDIUM).sum())
        count = len(areas)
        counts[label] += ClassCount(1, count, small, medium - small, count - medium, crowds)


def _look_at_whole(data: SegmentationDataset, checked: CheckResult) -> None:
    names = Counter(data.file_name(index) for index in range(len(data)))
    for name, times in names.items():
        if times > 1:
            checked.warn("image file listed twice", name)
    if checked.images == len(data):
        for info, count in zip(data.classes, checked.counts, strict=True):
            if not count.images:
                checked.warn("class that no image has", info.name)


def classes_by_frequency(checked: CheckResult) -> list[tuple[ClassInfo, ClassCount]]:
    """The classes that occur, the most frequent first."""
    if checked.dataset is None:
        return []
    pairs = zip(checked.dataset.classes, checked.counts, strict=True)
    return sorted((pair for pair in pairs if pair[1].images), key=lambda pair: -pair[1].objects)
