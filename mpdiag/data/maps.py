"""Maps of numbers, a PNG for each image, and the segments that the numbers stand for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mpdiag.data.files import missing_files
from mpdiag.data.pictures import read_numbers
from mpdiag.data.problems import MISSING_FILE, Problem, Report
from mpdiag.data.sample import Truth
from mpdiag.data.source import ImageRecord
from mpdiag.errors import DataError

Numbers = npt.NDArray[np.int32]


class PixelMaps:
    """A folder of maps, and the images that they belong to, numbered from 1.

    path    the folder
    images  file name of each image
    names   file name of each image's map, relative to the folder
    mend    what to do where maps are missing, as the end of a sentence

    Raises DataError where there is no image at all.
    """

    def __init__(
        self, path: Path, images: Sequence[str], names: Sequence[str], mend: str, report: Report
    ) -> None:
        if not names:
            raise DataError(f"{path} holds no maps, nor are there images of them: {mend}")
        self.path = path
        self.images = [ImageRecord(number, name) for number, name in enumerate(images, start=1)]
        self.report = report
        self._names = list(names)
        missing = missing_files(path, self._names)
        if missing:
            report(
                Problem(
                    MISSING_FILE,
                    f"{path} lacks the maps of {len(missing)} of {len(images)} images, as"
                    f" {missing[0]}: {mend}",
                    len(missing),
                )
            )

    def file(self, index: int) -> Path:
        """Where the map of an image is."""
        return self.path / self._names[index]

    def read(self, index: int) -> Numbers:
        """(H, W) numbers. Problem where the file can't be read."""
        return read_numbers(self.file(index))


def segments(
    numbers: Numbers, wanted: Sequence[int], labels: Sequence[int], crowd: Sequence[bool]
) -> Truth:
    """One segment for each of the wanted numbers, whose class and kind are given."""
    values = np.array(wanted, dtype=np.int32)
    masks = torch.from_numpy(numbers[None] == values[:, None, None])
    return Truth(
        masks=masks,
        labels=torch.tensor(labels, dtype=torch.int64),
        crowd=torch.tensor(crowd, dtype=torch.bool),
        areas=masks.sum((1, 2)).double(),
    )
