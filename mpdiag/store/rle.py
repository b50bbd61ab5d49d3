"""Binary masks as COCO compressed run lengths."""

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask


def encode(mask: npt.NDArray[np.bool_]) -> bytes:
    """Compress one mask of shape (height, width)."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    counts: bytes = encoded["counts"]
    return counts


def decode(counts: bytes, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Give back the mask of shape (height, width).

    Raises ValueError where the run lengths don't fill exactly that area.
    """
    decoded = coco_mask.decode({"size": [height, width], "counts": counts})
    return np.ascontiguousarray(decoded, dtype=np.bool_)
