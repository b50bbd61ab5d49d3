"""Instance maps of Cityscapes: for each image a PNG with the instance of every pixel."""

from collections.abc import Sequence

import numpy as np

from mpdiag.data.integer_maps import IntegerMapFolder, segments
from mpdiag.data.sample import ClassInfo, GroundTruth

_DIVISOR = 1000


class InstanceMaps:
    """The annotation source of `*_gtFine_instanceIds.png`.

    A number of 1000 or more is class id x 1000 + instance; the bare id of a class that has
    instances stands for a group of them, a crowd. Pixels of other classes are in no mask.
    (cityscapesscripts, preparation/json2instanceImg.py.)
    """

    def __init__(self, maps: IntegerMapFolder, classes: Sequence[ClassInfo]) -> None:
        """`classes` are those that have instances, by Cityscapes' ids."""
        self.path = maps.path
        self.images = maps.images
        self.classes = list(classes)
        self._maps = maps
        self._label_of = {info.category_id: label for label, info in enumerate(classes)}

    def num_objects(self, index: int) -> int:
        """1, since only its map tells how many there are, if any."""
        return 1

    def read(self, index: int) -> GroundTruth:
        """The instances of an image, groups last; see Annotations."""
        numbers = self._maps.read(index)
        found = []
        for number in np.unique(numbers).tolist():
            crowd = number < _DIVISOR
            label = self._label_of.get(number if crowd else number // _DIVISOR)
            if label is not None:
                found.append((crowd, number, label))
        crowds, wanted, labels = zip(*sorted(found), strict=True) if found else ((), (), ())
        return segments(numbers, wanted, labels, crowds)
