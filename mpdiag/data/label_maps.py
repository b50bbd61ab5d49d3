"""Label maps: for each image a PNG with the class index of every pixel."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpdiag.data.integer_maps import IntegerMap, IntegerMapFolder, segments
from mpdiag.data.problems import DataProblem, ProblemHandler
from mpdiag.data.sample import ClassInfo, GroundTruth

IGNORE = 255


class LabelMaps:
    """The annotation source of semantic data: one mask for each class that a map has.

    Number k of a map is class k; `ignore` is in no mask.
    """

    def __init__(
        self, maps: IntegerMapFolder, classes: Sequence[ClassInfo], ignore: int = IGNORE
    ) -> None:
        self.path = maps.path
        self.images = maps.images
        self.classes = list(classes)
        self._maps = maps
        self._ignore = ignore

    def num_objects(self, index: int) -> int:
        """1, as an image has some class, as a rule; only its map tells how many."""
        return 1

    def read(self, index: int) -> GroundTruth:
        """One segment for each class of an image; see Annotations."""
        path, classes = self._maps.file(index), len(self.classes)
        return class_segments(
            self._maps.read(index), path, classes, self._ignore, self._maps.on_problem
        )


def class_segments(
    numbers: IntegerMap, path: Path, classes: int, ignore: int, on_problem: ProblemHandler
) -> GroundTruth:
    """One segment for each class of a map that was read from `path`; `ignore` is in none."""
    present = [number for number in np.unique(numbers).tolist() if number != ignore]
    labels = [number for number in present if 0 <= number < classes]
    if len(labels) < len(present):
        unknown = min(set(present) - set(labels))
        on_problem(
            DataProblem(
                "class index out of range",
                f"{path} has class index {unknown}, but classes are 0 to {classes - 1}, and "
                f"{ignore} for none: prepare the maps anew",
            )
        )
    return segments(numbers, labels, labels, [False] * len(labels))


def open_label_maps(
    images: Path,
    maps: Path,
    suffix: str,
    classes: Sequence[ClassInfo],
    fix: str,
    on_problem: ProblemHandler,
    ignore: int = IGNORE,
) -> LabelMaps:
    """The maps in a folder and the JPEGs in another, paired by their names without suffix.

    Args:
        images, maps: the two folders.
        suffix: of the maps.
        classes: in the order of the maps' numbers.
        fix: what to do where maps are missing, as the end of a sentence.
        on_problem: what is done with what is wrong.
        ignore: the number that is no class.
    """
    names = sorted({file.stem for file in (*images.glob("*.jpg"), *maps.glob(f"*{suffix}"))})
    paired = IntegerMapFolder(
        maps, [f"{name}.jpg" for name in names], [name + suffix for name in names], fix, on_problem
    )
    return LabelMaps(paired, classes, ignore)
