"""Read the detections of a run, checked, image by image."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mpdiag import rle
from mpdiag.errors import OutputError, RunError, describe_os_error
from mpdiag.store import Run

IMAGES_PER_QUERY = 256

_IMAGES = """
SELECT image_id, any_value(i.height), any_value(i.width),
    coalesce(sum(octet_length(counts)), 0)::BIGINT AS bytes
FROM images i LEFT JOIN (FROM detections WHERE layer IN (SELECT unnest(?))) d USING (image_id)
GROUP BY image_id ORDER BY image_id
"""

_DETECTIONS = """
SELECT image_id, layer, query, label, score, height, width, counts
FROM detections
WHERE image_id IN (SELECT unnest(?)) AND layer IN (SELECT unnest(?))
ORDER BY image_id, layer, score DESC, query, label
"""


@dataclass(frozen=True, slots=True)
class Detection:
    """One predicted mask at the size of its image file.

    Attributes:
        layer: 0..L.
        query: query that predicted it; -1 for a panoptic segment or a class map.
        label: position in the classes of the run.
        score: 0..1.
        size: (height, width) in pixels.
        counts: COCO compressed RLE; its runs fill `size`.
        box: x, y, width and height of the mask in pixels; zeros if it is empty.
    """

    layer: int
    query: int
    label: int
    score: float
    size: tuple[int, int]
    counts: bytes
    box: tuple[int, int, int, int]

    def crop(self) -> npt.NDArray[np.bool_]:
        """Return the mask within its box."""
        x, y, width, height = self.box
        return rle.decode(self.counts, *self.size)[y : y + height, x : x + width]


@dataclass(frozen=True, slots=True)
class DetectedImage:
    """An image of a run with the detections of some layers.

    Attributes:
        image_id: image id of the data set.
        size: (height, width) in pixels.
        detections: by layer and descending score, without those of empty masks.
    """

    image_id: int
    size: tuple[int, int]
    detections: tuple[Detection, ...]


def layers_with_detections(run: Run) -> list[int]:
    """Return the layers whose detections a run has, in order.

    Raises:
        RunError: there are none.
    """
    rows = run.query("SELECT DISTINCT layer FROM detections ORDER BY layer")
    if rows.empty:
        raise RunError(
            f"{run.path}: has no detections; analyse the matching part without --no-evaluate"
        )
    if rows["layer"].isna().any():  # of schema version 1
        raise RunError(f"{run.path}: has detections of unknown layers; analyse again")
    return [int(layer) for layer in rows["layer"]]


def detected_images(run: Run, layers: Sequence[int]) -> Iterator[DetectedImage]:
    """Yield every image with its detections in some layers, by image id.

    Raises:
        RunError: a row is invalid: its mask does not fit the image, or its class is unknown; or
            the masks of an image are too large.
    """
    num_classes = len(categories(run))
    images = run.query(_IMAGES, [list(layers)])
    too_large = images["image_id"][images["bytes"] > rle.MAX_BYTES].tolist()
    if too_large:
        raise RunError(
            f"{run.path / 'detections'}: the masks of image {too_large[0]} are too large; analyse "
            "again"
        )
    by_bytes = images["bytes"].cumsum() // rle.MAX_BYTES
    for _, block in images.groupby([by_bytes, images.index // IMAGES_PER_QUERY]):
        rows = run.query(_DETECTIONS, [block["image_id"].tolist(), list(layers)])
        by_image = dict(list(rows.groupby("image_id")))
        for image_id, height, width, _ in block.itertuples(index=False, name=None):
            size, found = (int(height), int(width)), by_image.get(image_id)
            records = [] if found is None else found.to_dict("records")
            try:
                every = [_detection(record, size, num_classes) for record in records]
            except (TypeError, ValueError) as error:
                raise RunError(
                    f"{run.path / 'detections'}: image {image_id} is invalid ({error}); analyse "
                    "again"
                ) from error
            yield DetectedImage(int(image_id), size, tuple(x for x in every if x.box[2]))


def _detection(row: Mapping[Any, Any], size: tuple[int, int], num_classes: int) -> Detection:
    if size != (row["height"], row["width"]):
        raise ValueError(f"a mask of {row['height']} x {row['width']} pixels does not fit it")
    label, score, counts = int(row["label"]), float(row["score"]), bytes(row["counts"])
    if not 0 <= label < num_classes:
        raise ValueError(f"the run has no class {label}")
    if not 0 <= score <= 1:
        raise ValueError(f"a score is {score}")
    box = _box(rle.decode(counts, *size))
    return Detection(int(row["layer"]), int(row["query"]), label, score, size, counts, box)


def _box(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


def categories(run: Run) -> list[tuple[int, str]]:
    """Return category id and name of each class.

    Raises:
        RunError: run.json has no valid list of classes.
    """
    classes: Any = run.header.get("classes")
    try:
        return [(int(entry["category_id"]), str(entry["name"])) for entry in classes]
    except (KeyError, OverflowError, TypeError, ValueError):
        raise RunError(f"{run.path / 'run.json'} has no classes; analyse again") from None


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Create an empty folder for an export; after an error, remove what was written to it.

    Raises:
        OutputError: there is a file of this name, or a folder with files; or it can't be created.
    """
    if path.is_dir() and any(path.iterdir()):
        raise OutputError(f"{path}: is not empty; choose another --output")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = describe_os_error(error, path)
        raise OutputError(
            f"{path}: cannot be created ({reason}); choose another --output"
        ) from None
    try:
        yield
    except BaseException:
        for file in path.iterdir():
            file.unlink()
        raise
