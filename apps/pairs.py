"""What the page Compare asks of two runs: their differences, and one image in each."""

from dataclasses import dataclass

import pandas as pd

from apps.runs import Loaded, cached
from mpdiag.errors import RunError
from mpdiag.store import Comparison, compare

MOVED = 50
"""Images that the page offers, of those that moved most."""

_IMAGE = "SELECT file_name, height, width FROM images WHERE image_id = ?"
_TARGETS = "SELECT gt, label FROM targets WHERE image_id = ? ORDER BY gt"
_MATCHES = """
SELECT matched_gt AS gt, layer, query, matched_gt_iou AS iou FROM queries
WHERE image_id = ? AND matched_gt >= 0 ORDER BY gt, layer
"""
_KEPT = "SELECT DISTINCT index FROM masks WHERE image_id = ? AND kind = 'query'"


@dataclass(frozen=True, slots=True)
class OneImage:
    """An image as a run has it.

    Attributes:
        file_name: below the data set's folder.
        shape: height and width of the file, pixels.
        targets: a row for each GT: gt, label.
        matches: a row for each match: gt, layer, query, iou.
        kept: queries whose masks were kept.
    """

    file_name: str
    shape: tuple[int, int]
    targets: pd.DataFrame
    matches: pd.DataFrame
    kept: frozenset[int]


@cached
def comparison(a: Loaded, b: Loaded) -> Comparison:
    """Paired differences b - a; RunError where the runs can't be compared."""
    return compare(a.run, b.run, top=MOVED)


@cached
def one_image(one: Loaded, image_id: int) -> OneImage:
    """The rows of an image; RunError where the run has no such image."""
    image, targets, matches = (
        one.run.query(sql, [image_id], image_id=image_id) for sql in (_IMAGE, _TARGETS, _MATCHES)
    )
    if image.empty:
        raise RunError(f"{one.run.path} has no image {image_id}: choose another")
    kept = one.run.query(_KEPT, [image_id])["index"]
    name, height, width = image.iloc[0]
    return OneImage(str(name), (int(height), int(width)), targets, matches, frozenset(kept))
