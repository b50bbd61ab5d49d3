"""Decode the segment formats of COCO: polygons, RLE and panoptic PNGs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from mpdiag import rle
from mpdiag.data.problems import DataProblem
from mpdiag.ops import decode_masks

Masks = npt.NDArray[np.bool_]

MAX_SEGMENT_ID = (1 << 24) - 1
"""Largest id of a segment that the three channels of a panoptic PNG can store."""

MAX_MASKS = 10_000
MAX_MASK_PIXELS = 1 << 31
"""Maximum number and maximum total pixels of the masks of one image."""

# Rasterising a larger polygon exhausts memory. The first two limits are in image sizes.
_MAX_DISTANCE = 10
_MAX_PERIMETER = 100
_MAX_PERIMETER_PIXELS = 4_000_000
_MERGED_AT_ONCE = 32


def require_mask_memory(
    shape: tuple[int, ...], image: Path, max_pixels: int = MAX_MASK_PIXELS
) -> None:
    """Raise DataProblem if (G, H, W) masks of an image would take too much memory."""
    if shape[0] > MAX_MASKS or math.prod(shape) > max_pixels:
        raise DataProblem(
            "too many masks",
            f"{image}: has {shape[0]:,} segments of {shape[1]} x {shape[2]} pixels; at most "
            f"{MAX_MASKS:,} segments and {max_pixels:,} pixels in all are supported, so remove "
            "segments or reduce the image",
        )


def to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Return the compressed RLE of polygons, an uncompressed RLE or a compressed RLE.

    Raises:
        ValueError: the segmentation is invalid. The text completes "the segmentation ...".
    """
    if isinstance(segmentation, list):
        return _rle_of_polygons(segmentation, height, width)
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        return _checked_rle(segmentation, height, width)
    raise ValueError("is neither a list of polygons nor an RLE with size and counts")


def decode(rles: Sequence[dict[str, Any]], height: int, width: int) -> Masks:
    """Return the (G, H, W) masks of G compressed RLEs from `to_rle`."""
    masks: Masks = decode_masks([one["counts"] for one in rles], height, width).numpy()
    return masks


def segment_ids(png: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Return the (H, W) ids of a panoptic PNG (H, W, 3): R + 256 G + 65536 B; 0 is unlabelled."""
    red, green, blue = (png[..., channel].astype(np.int32) for channel in range(3))
    return red + 256 * green + 65536 * blue


def segment_colors(ids: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Return the (H, W, 3) panoptic PNG of (H, W) segment ids, the inverse of `segment_ids`."""
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)


def _rle_of_polygons(polygons: list[Any], height: int, width: int) -> dict[str, Any]:
    if not polygons:
        raise ValueError("is an empty list of polygons")
    rles = []
    for polygon in polygons:
        try:
            points = np.asarray(polygon, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            raise ValueError("has a polygon that is not a list of numbers") from None
        if points.ndim != 1 or len(points) < 6 or len(points) % 2:
            raise ValueError("has a polygon with fewer than three x, y pairs or an odd count")
        if not np.all(np.abs(points) <= _MAX_DISTANCE * max(height, width)):
            raise ValueError("has a polygon far outside the image")
        edges = np.abs(np.diff(points.reshape(-1, 2), axis=0)).max(axis=1)
        if edges.sum() > min(_MAX_PERIMETER * (height + width), _MAX_PERIMETER_PIXELS):
            raise ValueError("has a polygon that crosses the image many times")
        rles += coco_mask.frPyObjects([points.tolist()], height, width)
    while len(rles) > 1:  # merging all at once takes quadratic time
        groups = range(0, len(rles), _MERGED_AT_ONCE)
        rles = [coco_mask.merge(rles[start : start + _MERGED_AT_ONCE]) for start in groups]
    merged: dict[str, Any] = rles[0]
    return merged


def _checked_rle(segmentation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    size, counts = segmentation["size"], segmentation["counts"]
    if size != [height, width]:
        raise ValueError(f"has an RLE of size {size!r:.60} where the image is {[height, width]}")
    if isinstance(counts, str) and counts.isascii():
        packed = counts.encode("ascii")
    elif isinstance(counts, list) and all(
        type(run) is int and 0 <= run <= height * width for run in counts
    ):
        packed = coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)["counts"]
    else:
        raise ValueError("has RLE counts that are not run lengths")
    try:
        rle.run_lengths(packed, height, width)
    except ValueError as reason:
        raise ValueError(f"has invalid RLE counts: {reason}") from None
    return {"size": size, "counts": packed}
