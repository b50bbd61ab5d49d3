"""COCO run-length encoding (RLE) of many masks.

On the CPU, C++ (`mask_encoding.cpp`) reads and writes the rows of a mask in place, while
pycocotools needs a transposed copy of it. Other threads of Python run meanwhile.
"""

import ctypes
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from torch import Tensor

from mpdiag import rle
from mpdiag.ops.compiled_library import library_or_none

SOURCE = Path(__file__).with_suffix(".cpp")


def encode_masks(masks: Tensor) -> list[bytes]:
    """Return the compressed RLE of each of (D, H, W) bool masks on the CPU."""
    library = _library()
    if library is None or masks.numel() == 0:
        return [rle.encode(mask) for mask in masks.numpy()]
    cells = masks.contiguous()
    lengths = torch.empty(len(cells), dtype=torch.int64)
    sizes = (*cells.shape, torch.get_num_threads())
    pointers = (cells.data_ptr(), lengths.data_ptr())
    found = library.encode_masks(*map(ctypes.c_int64, sizes), *map(ctypes.c_void_p, pointers))
    ends = [0, *accumulate(lengths.tolist())]
    text = ctypes.string_at(found, ends[-1])
    library.free_text(ctypes.c_void_p(found))
    return [text[start:end] for start, end in pairwise(ends)]


def decode_masks(counts: Sequence[bytes], height: int, width: int) -> Tensor:
    """Decode compressed RLE to bool masks (D, height, width).

    Raises:
        ValueError: the runs of a mask do not fill its cells exactly.
    """
    library = _library()
    masks = torch.zeros(len(counts), height, width, dtype=torch.bool)
    if masks.numel() == 0:
        return masks
    if library is None:
        for mask, one in zip(masks.numpy(), counts, strict=True):
            mask[:] = rle.decode(one, height, width)
        return masks
    lengths = torch.tensor([len(one) for one in counts], dtype=torch.int64)
    valid = library.decode_masks(
        *map(ctypes.c_int64, masks.shape),
        ctypes.c_char_p(b"".join(counts)),
        *map(ctypes.c_void_p, (lengths.data_ptr(), masks.data_ptr())),
    )
    if valid < len(counts):
        raise ValueError(f"the run lengths of mask {valid} do not fill {height} x {width} cells")
    return masks


def _library() -> ctypes.CDLL | None:
    library = library_or_none(SOURCE, "masks are encoded and decoded by NumPy and pycocotools")
    if library is not None:
        library.encode_masks.restype = ctypes.c_void_p
        library.decode_masks.restype = ctypes.c_int64
    return library
