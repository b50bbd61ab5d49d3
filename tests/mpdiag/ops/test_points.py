"""Point reads against torch's grid_sample."""

import torch
import torch.nn.functional as F

from mpdiag.ops import cell_centers, sample_logits, sample_masks, seeded_points


def test_masks_are_read_as_grid_sample_reads_floats() -> None:
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


def test_cell_centers_read_each_cell_itself() -> None:
    maps = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(2))
    read = sample_logits(maps, cell_centers(4, 6))
    torch.testing.assert_close(read, maps.flatten(2))
    masks = maps[0] > 0.5
    read = sample_masks(masks, torch.arange(3), cell_centers(4, 6))
    torch.testing.assert_close(read, masks.flatten(1).float())


def test_seeded_points_repeat() -> None:
    assert torch.equal(seeded_points(9, 3), seeded_points(9, 3))
    assert not torch.equal(seeded_points(9, 3), seeded_points(9, 4))
