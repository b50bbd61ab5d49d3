"""Label maps: for each image a PNG with the class index of every pixel."""

from collections.abc import Sequence

import numpy as np

from mpdiag.data.maps import PixelMaps, segments
from mpdiag.data.problems import Problem
from mpdiag.data.sample import ClassInfo, Truth

IGNORE = 255


class LabelMaps:
    """The annotation source of semantic data: one mask for each class that a map has.

    Number k of a map is class k; 255 is in no mask.
    """

    def __init__(self, maps: PixelMaps, classes: Sequence[ClassInfo]) -> None:
        self.path = maps.path
        self.images = maps.images
        self.classes = list(classes)
        self._maps = maps

    def num_objects(self, index: int) -> int:
        """1, as an image has some class, as a rule; only its map tells how many."""
        return 1

    def read(self, index: int) -> Truth:
        """One segment for each class of an image; see AnnotationSource."""
        numbers = self._maps.read(index)
        present = [number for number in np.unique(numbers).tolist() if number != IGNORE]
        labels = [number for number in present if 0 <= number < len(self.classes)]
        if len(labels) < len(present):
            unknown = min(set(present) - set(labels))
            self._maps.report(
                Problem(
                    "class index out of range",
                    f"{self._maps.file(index)} has class index {unknown}, but classes are 0 to"
                    f" {len(self.classes) - 1}, and {IGNORE} for none: prepare the maps anew",
                )
            )
        return segments(numbers, labels, labels, [False] * len(labels))
