"""Semantic label maps: one image per annotated image with the class index of each pixel."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpdiag.data.integer_maps import IntegerMap, IntegerMapFolder, ground_truth_from_map
from mpdiag.data.problems import DataProblem, ProblemHandler
from mpdiag.data.sample import ClassInfo, GroundTruth

IGNORE = 255


class LabelMaps:
    """Semantic annotations (see `Annotations`): one mask per class that a map contains.

    Value k of a map is class k. Pixels with the value `ignore` are in no mask.
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
        """Return 1: only the map shows which classes an image has."""
        return 1

    def mask_shape(self, index: int) -> None:
        return None

    def read(self, index: int) -> GroundTruth:
        """Return one segment per class of an image."""
        return class_segments(
            self._maps.read(index),
            self._maps.file(index),
            len(self.classes),
            self._ignore,
            self._maps.on_problem,
        )


def class_segments(
    label_map: IntegerMap, path: Path, num_classes: int, ignore: int, on_problem: ProblemHandler
) -> GroundTruth:
    """Return one segment per class of a label map that was read from `path`."""
    values = [value for value in np.unique(label_map).tolist() if value != ignore]
    labels = [value for value in values if 0 <= value < num_classes]
    if len(labels) < len(values):
        message = (
            f"{path}: has class index {min(set(values) - set(labels))}, valid are 0 to "
            f"{num_classes - 1} and {ignore} (ignore); create the maps again"
        )
        on_problem(DataProblem("class index out of range", message))
    return ground_truth_from_map(label_map, labels, labels, [False] * len(labels), path)


def open_label_maps(
    images: Path,
    maps: Path,
    suffix: str,
    classes: Sequence[ClassInfo],
    fix: str,
    on_problem: ProblemHandler,
    ignore: int = IGNORE,
) -> LabelMaps:
    """Pair the JPEGs of a folder with the label maps of another by file stem.

    Args:
        images: folder of the JPEGs.
        maps: folder of the label maps.
        suffix: file suffix of the maps.
        classes: classes in the order of their indices in the maps.
        fix: what to do if maps are missing, for messages.
        on_problem: called with each problem.
        ignore: value of unlabelled pixels.
    """
    stems = {file.stem for file in (*images.glob("*.jpg"), *maps.glob(f"*{suffix}"))}
    files = [(f"{stem}.jpg", stem + suffix) for stem in sorted(stems)]
    return LabelMaps(IntegerMapFolder(maps, files, fix, on_problem), classes, ignore)
