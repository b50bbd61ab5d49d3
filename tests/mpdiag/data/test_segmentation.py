import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mpdiag.data.segmentation import decode, segment_colors, segment_ids, to_rle


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (60, 83)])
def test_rle_round_trip(size: tuple[int, int], share: float) -> None:
    rng = np.random.default_rng(4)
    masks = rng.random((3, *size)) < share
    rles = []
    for mask in masks:
        packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        text = {"size": list(size), "counts": packed["counts"].decode("ascii")}
        rles.append(to_rle(text, *size))
    np.testing.assert_array_equal(decode(rles, *size), masks)


def test_run_lengths_are_column_major() -> None:
    rle = to_rle({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3)
    expected = np.array([[[False, True, False], [True, False, False]]])
    np.testing.assert_array_equal(decode([rle], 2, 3), expected)


def test_no_segments() -> None:
    assert decode([], 4, 6).shape == (0, 4, 6)


@pytest.mark.parametrize("counts", ["0", "T2", "zz", "P", "a b", "\u00e9", "6\x00"])
def test_invalid_counts_that_pycocotools_accepts(counts: str) -> None:
    with pytest.raises(ValueError, match="RLE counts"):
        to_rle({"size": [10, 10], "counts": counts}, 10, 10)


def test_more_runs_than_a_mask_can_have_are_refused() -> None:
    counts = [0] * 20 + [6]
    with pytest.raises(ValueError, match="RLE counts: the counts are too long"):
        to_rle({"size": [2, 3], "counts": counts}, 2, 3)


def test_numbers_longer_than_necessary_are_decoded_or_refused() -> None:
    """`to_rle` accepts only what `decode` reads; the number 64 is "0", "2" and added zeros."""
    decoded = []
    for zeros in range(15):
        counts = "".join(chr(48 + group + 32) for group in (0, 2, *[0] * zeros))
        counts = counts[:-1] + chr(ord(counts[-1]) - 32)
        try:
            rle = to_rle({"size": [8, 8], "counts": counts}, 8, 8)
        except ValueError:
            continue
        decoded.append(len(counts))
        assert not decode([rle], 8, 8).any()
    assert decoded == [2, 3, 4, 5, 6, 7]


def test_segment_ids() -> None:
    png = np.array([[[0, 0, 0], [7, 0, 0], [0, 1, 0], [3, 2, 1], [255, 255, 255]]], dtype=np.uint8)
    ids = segment_ids(png)
    assert ids.tolist() == [[0, 7, 256, 3 + 2 * 256 + 65536, 2**24 - 1]]
    np.testing.assert_array_equal(segment_colors(ids), png)
