"""Queries of the Compare page: the differences of two runs, and one image of a run."""

from dataclasses import dataclass

import pandas as pd

from apps.runs import LoadedRun, cached
from mpdiag.errors import RunError
from mpdiag.store import Comparison, compare

MAX_IMAGES = 50
"""Number of images with the largest differences that the page offers."""

_IMAGE = "SELECT file_name, height, width FROM images WHERE image_id = ?"
_TARGETS = "SELECT gt, label FROM targets WHERE image_id = ? ORDER BY gt"
_MATCHES = """
SELECT matched_gt AS gt, layer, query, matched_gt_iou AS iou FROM queries
WHERE image_id = ? AND matched_gt >= 0 ORDER BY gt, layer
"""
_SAVED = "SELECT DISTINCT index FROM masks WHERE image_id = ? AND kind = 'query'"


@dataclass(frozen=True, slots=True)
class ComparedImage:
    """The rows of one image in one of the runs.

    Attributes:
        file_name: path below the image root of the data set.
        shape: height and width of the image file, in pixels.
        targets: one row per GT: gt, label.
        matches: one row per match: gt, layer, query, iou.
        saved: queries whose masks are saved.
    """

    file_name: str
    shape: tuple[int, int]
    targets: pd.DataFrame
    matches: pd.DataFrame
    saved: frozenset[int]


@cached
def compare_runs(a: LoadedRun, b: LoadedRun) -> Comparison:
    """Return the paired differences b - a.

    Raises:
        RunError: the runs cannot be compared.
    """
    return compare(a.run, b.run, top=MAX_IMAGES)


@cached
def read_image(loaded: LoadedRun, image_id: int) -> ComparedImage:
    """Read the rows of an image.

    Raises:
        RunError: the run has no such image.
    """
    image, targets, matches = (
        loaded.run.query(sql, [image_id], image_id=image_id) for sql in (_IMAGE, _TARGETS, _MATCHES)
    )
    if image.empty:
        raise RunError(f"{loaded.run.path}: no image {image_id}; select another image")
    saved = loaded.run.query(_SAVED, [image_id])["index"]
    name, height, width = image.iloc[0]
    return ComparedImage(str(name), (int(height), int(width)), targets, matches, frozenset(saved))
