"""RLE of masks against pycocotools."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from mpdiag.ops import decode_masks, encode_masks, mask_encoding


def by_pycocotools(masks: Tensor) -> list[bytes]:
    arrays = [np.asfortranarray(mask.numpy(), dtype=np.uint8) for mask in masks]
    return [coco_mask.encode(array)["counts"] for array in arrays]


@pytest.fixture(params=["compiled", "plain"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        monkeypatch.setattr(mask_encoding, "_library", lambda: None)
    else:
        assert mask_encoding._library() is not None


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (7, 8), (8, 7), (5, 17), (33, 40)])
def test_equals_pycocotools(size: tuple[int, int]) -> None:
    """Empty, full, noise, and mostly empty and mostly full masks."""
    noise = torch.rand(5, *size, generator=torch.Generator().manual_seed(sum(size)))
    masks = noise < torch.tensor([0.0, 1.1, 0.5, 0.02, 0.98])[:, None, None]
    assert encode_masks(masks) == by_pycocotools(masks)
    assert torch.equal(decode_masks(by_pycocotools(masks), *size), masks)


def test_runs_of_many_digits() -> None:
    """Differences of run lengths need up to four bytes here, and are negative too."""
    masks = torch.zeros(2, 600, 700, dtype=torch.bool)
    masks[0, 599, 699] = masks[0, 3, 5:7] = masks[0, 5, 680] = True
    masks[1, :, 1:650] = True
    masks[1, 77, 300] = False
    assert encode_masks(masks) == by_pycocotools(masks)
    assert torch.equal(decode_masks(by_pycocotools(masks), 600, 700), masks)


def test_masks_that_are_not_contiguous() -> None:
    masks = torch.rand(3, 9, 12, generator=torch.Generator().manual_seed(0)) > 0.6
    assert encode_masks(masks.transpose(1, 2)) == by_pycocotools(masks.transpose(1, 2))
    assert encode_masks(masks[:, ::2, 1:]) == by_pycocotools(masks[:, ::2, 1:])


def test_no_masks_and_no_cells() -> None:
    assert encode_masks(torch.zeros(0, 3, 4, dtype=torch.bool)) == []
    nothing = torch.zeros(2, 0, 4, dtype=torch.bool)
    assert encode_masks(nothing) == by_pycocotools(nothing)
    assert decode_masks([], 3, 4).shape == (0, 3, 4)


@pytest.mark.parametrize(
    "counts",
    [
        b"",
        b"1",  # too few cells
        b"=",  # too many
        b"o",  # ends within a number
        b"00000=",
        b"O<",  # a negative run
        b"4 8",  # no digit
        b"\xff<",
        b"ooooooooooooo0<",  # a number of more than 64 bits
        b"1:1000000000000001",
    ],
)
def test_damaged_counts_write_nothing_outside(counts: bytes) -> None:
    """The mask is the second of three of 3 x 4 cells. pycocotools does not check run lengths."""
    with pytest.raises(ValueError, match=r"run lengths|the counts"):
        decode_masks([b"<", counts, b"<"], 3, 4)
