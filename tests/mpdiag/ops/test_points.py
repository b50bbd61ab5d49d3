"""Point sampling against torch's grid_sample."""

import pytest
import torch
import torch.nn.functional as F

from mpdiag.ops import cell_centers, mask_kernel, sample_logits, sample_masks, seeded_points


@pytest.fixture(params=["compiled", "plain"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(mask_kernel, "mask_kernel", lambda: None)
    return request.param


@pytest.mark.usefixtures("implementation")
def test_sample_masks_equals_grid_sample() -> None:
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(4, 7, 5, generator=generator) > 0.5
    points = torch.rand(6, 50, 2, generator=generator) * 1.2 - 0.1
    index = torch.tensor([0, 3, 1, 2, 2, 0])
    expected = F.grid_sample(
        masks[index].float()[:, None], (2 * points - 1)[:, None], align_corners=False
    )[:, 0, 0]
    torch.testing.assert_close(sample_masks(masks, index, points), expected)
    torch.testing.assert_close(
        sample_masks(masks, index, points[0]),
        sample_masks(masks, index, points[:1].expand(6, -1, -1)),
    )


@pytest.mark.usefixtures("implementation")
def test_index_of_a_mask_out_of_range() -> None:
    masks, points = torch.ones(2, 3, 3, dtype=torch.bool), cell_centers(3, 3)
    for index in (2, -3):
        with pytest.raises(IndexError, match="out of"):
            sample_masks(masks, torch.tensor([index]), points)


@pytest.mark.usefixtures("implementation")
def test_cell_centers_sample_each_cell() -> None:
    maps = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(2))
    sampled = sample_logits(maps, cell_centers(4, 6))
    torch.testing.assert_close(sampled, maps.flatten(2))
    masks = maps[0] > 0.5
    sampled = sample_masks(masks, torch.arange(3), cell_centers(4, 6))
    torch.testing.assert_close(sampled, masks.flatten(1).float())


def test_seeded_points_are_reproducible() -> None:
    assert torch.equal(seeded_points(9, 3), seeded_points(9, 3))
    assert not torch.equal(seeded_points(9, 3), seeded_points(9, 4))
