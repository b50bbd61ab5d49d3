"""What a data set asks of its annotations, in whatever form they are on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mpdiag.data.sample import ClassInfo, GroundTruth

@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image that is annotated; `file_name` is relative to the folder of the images."""

    image_id: int
    file_name: str


class Annotations(Protocol):
    """The annotations of one split; images count from 0 in the order of `images`."""

    @property
    def path(self) -> Path:
        """The file, or the folder of files, that holds them."""
        ...

    @property
    def images(self) -> list[ImageRecord]: ...

    @property
    def classes(self) -> list[ClassInfo]: ...

    def num_objects(self, index: int) -> int:
        """How many segments an image has, crowds left out, as far as is known without reading."""
        ...

    def read(self, index: int) -> GroundTruth:
        """All segments of an image. DataError where they can't be read."""
        ...
