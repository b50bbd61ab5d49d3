"""Interface of the annotations of a data set, independent of their file format."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mpdiag.data.sample import ClassInfo, GroundTruth


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One annotated image: an id of at least 0, and a file name relative to the image folder."""

    image_id: int
    file_name: str


class Annotations(Protocol):
    """Annotations of one split; an image index is its position in `images`."""

    @property
    def path(self) -> Path:
        """Annotation file, or folder of annotation files."""
        ...

    @property
    def images(self) -> list[ImageRecord]: ...

    @property
    def classes(self) -> list[ClassInfo]: ...

    def num_objects(self, index: int) -> int:
        """Return the number of segments of an image without crowds, without reading its map.

        Formats that store the segments only in the map return 1.
        """
        ...

    def mask_shape(self, index: int) -> tuple[int, int, int] | None:
        """Return the shape (G, H, W) of the masks of an image, from the annotation list.

        Formats that store the segments only in the map return None.
        """
        ...

    def read(self, index: int) -> GroundTruth:
        """Return all segments of an image, crowds and empty segments included.

        Raises:
            DataError: the annotation cannot be read.
        """
        ...


OpenedSplit = tuple[Annotations, Path | Sequence[Path]]
"""Annotations of a split, and its image folder or candidates that together have the images."""
