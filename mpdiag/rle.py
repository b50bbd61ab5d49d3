"""Binary masks as COCO compressed run-length encoding (RLE)."""

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

MAX_CELLS = 1 << 28
"""Maximum number of cells of the masks that are decoded at a time."""

MAX_BYTES = 1 << 26
"""Maximum length of the counts of an image that are fetched at a time.

A small file of equal rows can hold counts that exhaust memory.
"""


def encode(mask: npt.NDArray[np.bool_]) -> bytes:
    """Return the compressed RLE of a mask of shape (height, width)."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    counts: bytes = encoded["counts"]
    return counts


def compress(runs: npt.NDArray[np.int64], per_mask: npt.NDArray[np.int64]) -> list[bytes]:
    """Return the compressed RLE of masks from their run lengths.

    Args:
        runs: run lengths of all masks, one mask after the other, background first.
        per_mask: number of runs of each mask.
    """
    position = np.arange(len(runs)) - np.repeat(per_mask.cumsum() - per_mask, per_mask)
    left = runs.copy()
    later = np.flatnonzero(position > 2)  # these are stored as differences
    left[later] -= runs[later - 2]
    groups, used = [], []
    unfinished = np.ones(len(runs), np.bool_)
    while unfinished.any():
        group = left & 31
        left >>= 5
        continues = left != np.where(group & 16, -1, 0)
        groups.append((group | continues << 5) + 48)
        used.append(unfinished)
        unfinished = unfinished & continues
    if not groups:
        return [b""] * len(per_mask)
    emitted = np.stack(used, axis=1)
    text = np.stack(groups, axis=1)[emitted].astype(np.uint8).tobytes()
    lengths = np.concatenate([[0], emitted.sum(1).cumsum()])
    ends = lengths[per_mask.cumsum()].tolist()
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def decode(counts: bytes, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return the mask of shape (height, width).

    Raises:
        ValueError: the run lengths do not fill exactly that area, it exceeds MAX_CELLS, or the
            counts are longer than those that `encode` returns.
    """
    runs = run_lengths(counts, height, width)
    cells = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(cells.reshape(width, height).T)


def run_lengths(counts: bytes, height: int, width: int) -> npt.NDArray[np.int64]:
    """Return the run lengths of a mask, background first.

    Raises:
        ValueError: as for `decode`.
    """
    if min(height, width) < 0 or height * width > MAX_CELLS:
        raise ValueError(f"a mask of {height} x {width} cells is too large")
    # A run below 16 cells takes one byte. A longer one has more cells than the bytes that it takes
    # and that it adds to the difference two runs later. Only the first run may be empty.
    if len(counts) > height * width + 1:
        raise ValueError(f"the counts are too long for {height} x {width} cells")
    # Security: pycocotools (2.0.11) writes beyond its memory if the runs do not fill the area.
    runs = _numbers(counts)
    if runs.min(initial=0) < 0 or runs.max(initial=0) > MAX_CELLS or runs.sum() != height * width:
        raise ValueError(f"the run lengths do not fill {height} x {width} cells")
    return runs


def bounded_counts_sql(height: str, width: str) -> str:
    """Return the SQL of `counts`, NULL if it is longer than the counts of a mask of that size.

    A small compressed file can hold counts that exhaust memory when they are fetched.
    """
    return f"CASE WHEN octet_length(counts) <= {height}::BIGINT * {width} + 1 THEN counts END"


def _numbers(counts: bytes) -> npt.NDArray[np.int64]:
    """Return the numbers that a text stores.

    Each byte has five bits of a number, lowest bits first, and a continuation bit. From the fourth
    number on, the difference to the number two before is stored.
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0) + 1
    starts = np.append(0, ends[:-1])
    lengths = ends - starts
    if codes.min(initial=0) < 0 or codes.max(initial=0) > 63 or lengths.max(initial=0) > 7:
        raise ValueError("the counts are not run lengths")
    if len(ends) == 0 or ends[-1] != len(codes):
        if len(codes) == 0:
            return np.zeros(0, np.int64)
        raise ValueError("the counts end within a number")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[ends - 1] & 16, 1 << 5 * lengths, 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs
