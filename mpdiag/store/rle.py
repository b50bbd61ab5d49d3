"""Binary masks as COCO compressed run-length encoding (RLE), by pycocotools."""

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask


def encode(mask: npt.NDArray[np.bool_]) -> bytes:
    """Return the compressed RLE of a mask of shape (height, width)."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    counts: bytes = encoded["counts"]
    return counts


def decode(counts: bytes, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return the mask of shape (height, width).

    Raises:
        ValueError: the run lengths do not fill exactly that area.
    """
    decoded = coco_mask.decode({"size": [height, width], "counts": counts})
    return np.ascontiguousarray(decoded, dtype=np.bool_)
