"""Instance maps of Cityscapes: one PNG per image with the instance id of each pixel."""

from collections.abc import Sequence

import numpy as np

from mpdiag.data.integer_maps import IntegerMapFolder, ground_truth_from_map
from mpdiag.data.sample import ClassInfo, GroundTruth

_DIVISOR = 1000


class InstanceMaps:
    """Annotations (see `Annotations`) in `*_gtFine_instanceIds.png`.

    A value of 1000 or more is class id x 1000 + instance. The class id alone marks a group of
    instances, which is a crowd. Pixels of other classes are in no mask
    (cityscapesscripts, preparation/json2instanceImg.py).

    Args:
        maps: the folder of the maps.
        classes: the classes that have instances, with the ids of Cityscapes.
    """

    def __init__(self, maps: IntegerMapFolder, classes: Sequence[ClassInfo]) -> None:
        self.path = maps.path
        self.images = maps.images
        self.classes = list(classes)
        self._maps = maps
        self._label_of = {info.category_id: label for label, info in enumerate(classes)}

    def num_objects(self, index: int) -> int:
        """Return 1: only the map shows how many instances an image has."""
        return 1

    def mask_shape(self, index: int) -> None:
        return None

    def read(self, index: int) -> GroundTruth:
        """Return the instances of an image, crowds last."""
        instance_map = self._maps.read(index)
        found = []
        for value in np.unique(instance_map).tolist():
            crowd = value < _DIVISOR
            label = self._label_of.get(value if crowd else value // _DIVISOR)
            if label is not None:
                found.append((crowd, value, label))
        crowds, ids, labels = zip(*sorted(found), strict=True) if found else ((), (), ())
        return ground_truth_from_map(instance_map, ids, labels, crowds, self._maps.file(index))
