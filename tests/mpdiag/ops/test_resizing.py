"""Resizing of maps against PyTorch's interpolate."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.ops import resize_maps, resizing
from mpdiag.ops.compiled_library import library_or_none


def by_interpolate(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((30, 40), (120, 160)),
        ((120, 160), (79, 133)),
        ((1, 1), (3, 4)),
        ((5, 7), (5, 20)),
        ((7, 5), (20, 5)),
        ((61, 33), (17, 97)),
        ((9, 300), (2, 1)),
    ],
)
def test_equals_interpolate(before: tuple[int, int], after: tuple[int, int]) -> None:
    assert library_or_none(resizing.SOURCE, "plain") is not None
    maps = 5 * torch.randn(3, *before, generator=torch.Generator().manual_seed(sum(before)))
    found = resize_maps(maps, after)
    exact = by_interpolate(maps.double(), after)
    # Places are rounded to float32; maps change by at most 40 from cell to cell.
    rounding = 40 * max(before) * 2**-24
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=rounding)
    assert torch.equal(found[1:2], resize_maps(maps[1:2], after))


def test_parts_of_maps() -> None:
    maps = torch.randn(3, 12, 20, generator=torch.Generator().manual_seed(0))
    for part in (maps[:, :9, :13], maps[1:, 2:, 3:], maps.transpose(1, 2), maps[:, ::2, ::2]):
        torch.testing.assert_close(resize_maps(part, (31, 17)), by_interpolate(part, (31, 17)))


def test_infinite_and_nan_cells_stay_local() -> None:
    maps = torch.zeros(2, 6, 6)
    maps[0, 1, 1], maps[1, 4, 4] = torch.nan, torch.inf
    found, expected = resize_maps(maps, (12, 18)), by_interpolate(maps, (12, 18))
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_other_types_and_no_maps() -> None:
    maps = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(resize_maps(maps, (7, 8)), by_interpolate(maps, (7, 8)))
    assert resize_maps(torch.zeros(0, 4, 5), (7, 8)).shape == (0, 7, 8)
