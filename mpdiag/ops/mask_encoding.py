"""COCO run-length encoding (RLE) of many masks.

On the CPU, C++ (`mask_encoding.cpp`) reads the rows of a mask in place, while pycocotools needs a
transposed copy of it. Other threads of Python run meanwhile.
"""

import ctypes
import logging
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from mpdiag.errors import DependencyError
from mpdiag.ops.compiled_library import load_library

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_suffix(".cpp")


def encode_masks(masks: Tensor) -> list[bytes]:
    """Return the compressed RLE of each of (D, H, W) bool masks on the CPU."""
    library = _library()
    if library is None or masks.numel() == 0:
        return [_encode_by_pycocotools(mask) for mask in masks]
    cells = masks.contiguous()
    lengths = torch.empty(len(cells), dtype=torch.int64)
    sizes = (*cells.shape, torch.get_num_threads())
    pointers = (cells.data_ptr(), lengths.data_ptr())
    found = library.encode_masks(*map(ctypes.c_int64, sizes), *map(ctypes.c_void_p, pointers))
    ends = [0, *accumulate(lengths.tolist())]
    text = ctypes.string_at(found, ends[-1])
    library.free_text(ctypes.c_void_p(found))
    return [text[start:end] for start, end in pairwise(ends)]


def _encode_by_pycocotools(mask: Tensor) -> bytes:
    counts: bytes = coco_mask.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))["counts"]
    return counts


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = load_library(SOURCE)
    except DependencyError as error:
        log.warning("masks are encoded by pycocotools, which is slower: %s", error)
        return None
    library.encode_masks.restype = ctypes.c_void_p
    return library
