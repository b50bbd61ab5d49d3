"""Maps of numbers, a PNG for each image, and the segments that the numbers stand for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mpdiag.data.annotations import ImageRecord
from mpdiag.data.files import missing_files
from mpdiag.data.image_files import read_integer_map
from mpdiag.data.problems import MISSING_FILE, DataProblem, ProblemHandler
from mpdiag.data.sample import GroundTruth
from mpdiag.errors import DataError

IntegerMap = npt.NDArray[np.int32]


class IntegerMapFolder:
    """A folder of maps, and the images that they belong to, numbered from 1.

    path    the folder
    images  file name of each image
    names   file name of each image's map, relative to the folder
    fix    what to do where maps are missing, as the end of a sentence

    Raises DataError where there is no image at all.
    """

    def __init__(
        self,
        path: Path,
        images: Sequence[str],
        names: Sequence[str],
        fix: str,
        on_problem: ProblemHandler,
    ) -> None:
        if not names:
            raise DataError(f"{path} holds no maps, nor are there images of them: {fix}")
        self.path = path
        self.images = [ImageRecord(number, name) for number, name in enumerate(images, start=1)]
        self.on_problem = on_problem
        self._names = list(names)
        missing = missing_files(path, self._names)
        if missing:
            on_problem(
                DataProblem(
                    MISSING_FILE,
                    f"{path} lacks the maps of {len(missing)} of {len(images)} images, as"
                    f" {missing[0]}: {fix}",
                    len(missing),
                )
            )

    def file(self, index: int) -> Path:
        """Where the map of an image is."""
        return self.path / self._names[index]

    def read(self, index: int) -> IntegerMap:
        """(H, W) numbers. DataProblem where the file can't be read."""
        return read_integer_map(self.file(index))


def segments(
    numbers: IntegerMap, wanted: Sequence[int], labels: Sequence[int], crowd: Sequence[bool]
) -> GroundTruth:
    """One segment for each of the wanted numbers, whose class and kind are given."""
    values = np.array(wanted, dtype=np.int32)
    masks = torch.from_numpy(numbers[None] == values[:, None, None])
    return GroundTruth(
        masks=masks,
        labels=torch.tensor(labels, dtype=torch.int64),
        crowd=torch.tensor(crowd, dtype=torch.bool),
        areas=masks.sum((1, 2)).double(),
    )
