"""Integer maps: one single-channel image per annotated image, and the segments its values mark."""

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
from mpdiag.data.segmentation import require_mask_memory
from mpdiag.errors import DataError

IntegerMap = npt.NDArray[np.int32]


class IntegerMapFolder:
    """A folder of maps and the images that they annotate; image ids count from 1.

    Args:
        path: the folder.
        files: file name of each image, and of its map relative to the folder.
        fix: what to do if maps are missing, for messages.
        on_problem: called if maps are missing.

    Raises:
        DataError: there are no images.
    """

    def __init__(
        self, path: Path, files: Sequence[tuple[str, str]], fix: str, on_problem: ProblemHandler
    ) -> None:
        if not files:
            raise DataError(f"{path}: contains no maps, and there are no images for them; {fix}")
        self.path = path
        self.images = [ImageRecord(number, image) for number, (image, _) in enumerate(files, 1)]
        self.on_problem = on_problem
        self._maps = [name for _, name in files]
        missing = missing_files(path, self._maps)
        if missing:
            message = (
                f"{path}: maps of {len(missing)} of {len(files)} images are missing, for example "
                f"{missing[0]}; {fix}"
            )
            on_problem(DataProblem(MISSING_FILE, message, len(missing)))

    def file(self, index: int) -> Path:
        """Return the path of an image's map."""
        return self.path / self._maps[index]

    def read(self, index: int) -> IntegerMap:
        """Return the (H, W) map of an image.

        Raises:
            DataProblem: the file cannot be read.
        """
        return read_integer_map(self.file(index))


def ground_truth_from_map(
    integer_map: IntegerMap,
    ids: Sequence[int],
    labels: Sequence[int],
    crowd: Sequence[bool],
    path: Path,
) -> GroundTruth:
    """Return one segment per id: the pixels of the map, read from `path`, that have this value.

    Raises:
        DataProblem: the masks would take too much memory.
    """
    require_mask_memory((len(ids), *integer_map.shape), path)
    masks = torch.from_numpy(integer_map[None] == np.array(ids, dtype=np.int32)[:, None, None])
    return GroundTruth(
        masks=masks,
        labels=torch.tensor(labels, dtype=torch.int64),
        crowd=torch.tensor(crowd, dtype=torch.bool),
        areas=masks.sum((1, 2)).double(),
    )
