"""Noise on GT masks against section 4.3 of the paper, by brute force."""

import pytest
import torch
from torch import Tensor

from mpdiag.config import PilotConfig
from mpdiag.models.mask_noise import (
    PointNoise,
    QueryMasks,
    ScaleNoise,
    ShiftNoise,
    box_edges,
    build_noise,
    no_noise,
)

STRIDE = 4


def generators(images: int = 1, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + image) for image in range(images)]


def query_masks(cells: Tensor, queries: int = 1) -> QueryMasks:
    """Return the masks of MP queries of one image with one GT, given on the stride-4 grid."""
    mask = cells.repeat_interleave(STRIDE, 0).repeat_interleave(STRIDE, 1)
    return QueryMasks([mask[None]], torch.zeros(1, queries, dtype=torch.int64))


@pytest.fixture
def blob() -> Tensor:
    """(32, 40) mask with an irregular shape: rows 10..19, columns 12..25."""
    cells = torch.zeros(32, 40, dtype=torch.bool)
    cells[10:20, 12:20] = True
    cells[14:17, 20:26] = True
    cells[12, 14] = False
    return cells


def iou(a: Tensor, b: Tensor) -> Tensor:
    return (a & b).flatten(-2).sum(-1) / (a | b).flatten(-2).sum(-1)


@pytest.mark.parametrize("size", [(32, 40), (16, 20), (8, 10), (4, 5)])
def test_cells_are_on_where_any_pixel_is(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(3, 128, 160, generator=generator) > 0.999
    masks = QueryMasks([pixels], torch.tensor([[0, 1, -1, 2]]))
    found = no_noise(masks, size, generators())
    blocks = pixels.view(3, size[0], 128 // size[0], size[1], 160 // size[1]).any(4).any(2)
    assert torch.equal(found[0, [0, 1, 3]], blocks)
    assert not found[0, 2].any()
    assert masks.counts == [4]


def test_point_noise_flips_up_to_its_ratio_of_the_area() -> None:
    cells = torch.zeros(20, 20, dtype=torch.bool)
    cells[:5] = True
    masks, source = query_masks(cells, 300), generators()
    noised = PointNoise(0.2)(masks, (20, 20), source)
    flips = (noised[0] ^ cells).flatten(1)
    assert flips.sum(1).max() <= 20
    assert flips.sum(1).min() == 0
    # Uniform over 0..20, minus cells that are drawn twice.
    assert flips.sum(1).float().mean().item() == pytest.approx(10, abs=1)
    assert (flips[:, :100].sum() / flips.sum()).item() == pytest.approx(0.25, abs=0.05)
    assert not torch.equal(noised, PointNoise(0.2)(masks, (20, 20), source))


def test_official_point_noise_flips_cells_independently() -> None:
    cells = torch.zeros(20, 20, dtype=torch.bool)
    cells[:5] = True
    noised = PointNoise(0.2, each_cell=True)(query_masks(cells, 2000), (20, 20), generators())
    counts = (noised[0] ^ cells).flatten(1).sum(1).float()
    # 400 cells, each with probability 0.2 * 100 / 400.
    assert counts.mean().item() == pytest.approx(20, abs=0.5)
    assert counts.var().item() == pytest.approx(400 * 0.05 * 0.95, rel=0.1)


def test_shift_keeps_the_centre_in_the_box(blob: Tensor) -> None:
    noised = ShiftNoise(1.0)(query_masks(blob, 400), (32, 40), generators())[0]
    moves = {
        (down, right): torch.roll(blob, (down, right), (0, 1))
        for down in range(-5, 6)
        for right in range(-7, 8)
    }
    seen = set()
    for mask in noised:
        move = [offset for offset, moved in moves.items() if torch.equal(moved, mask)]
        assert len(move) == 1
        seen.add(move[0])
    # The box is 10 x 14: its centre moves by up to half of that, in all directions.
    assert {down for down, _ in seen} >= set(range(-4, 5))
    assert {right for _, right in seen} >= set(range(-6, 7))
    small = ShiftNoise(0.2)(query_masks(blob, 100), (32, 40), generators())[0]
    assert iou(small, blob).min() > 0.6


def test_shift_crops_at_the_border() -> None:
    cells = torch.zeros(16, 16, dtype=torch.bool)
    cells[:4, :4] = True
    noised = ShiftNoise(1.0)(query_masks(cells, 200), (16, 16), generators())[0]
    assert noised.flatten(1).sum(1).min() >= 4  # a quarter of the area
    assert not noised[:, 6:].any() and not noised[:, :, 6:].any()


def test_scale_keeps_the_centre() -> None:
    cells = torch.zeros(64, 64, dtype=torch.bool)
    cells[22:42, 12:52] = True  # 20 x 40 about (32, 32)
    noised = ScaleNoise(0.5)(query_masks(cells, 300), (64, 64), generators())
    sizes = []
    for axis, length in ((0, 20), (1, 40)):
        low, high = box_edges(noised, axis)
        assert ((low + high) / 2 - 32).abs().max() <= 0.5
        sizes.append((high - low)[0] / length)
    assert (sizes[0] - sizes[1]).abs().max() <= 0.11  # equal up to rounding
    assert sizes[1].min() < 0.55 and sizes[1].max() > 1.45
    assert sizes[1].mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("noise", ["point", "shift", "scale"])
def test_noised_masks_overlap_their_gt_in_every_layer(blob: Tensor, noise: str) -> None:
    """The official code inverts shifted and scaled masks after the first layer."""
    add_noise = build_noise(PilotConfig.model_validate({"noise": noise}))
    masks, source = query_masks(blob, 50), generators()
    for size in ((4, 5), (8, 10), (16, 20), (4, 5)):
        plain = masks.at(size)
        noised = add_noise(masks, size, source)
        assert noised.shape == plain.shape
        assert iou(noised, plain).mean() > 0.6


def test_noise_of_an_image_does_not_depend_on_the_batch(blob: Tensor) -> None:
    mask = blob.repeat_interleave(STRIDE, 0).repeat_interleave(STRIDE, 1)
    both = QueryMasks([mask[None], mask[None]], torch.tensor([[0, 0, -1], [0, 0, 0]]))
    second = QueryMasks([mask[None]], torch.tensor([[0, 0, 0]]))
    for noise in (PointNoise(0.5), PointNoise(0.5, each_cell=True), ShiftNoise(1), ScaleNoise(1)):
        found = noise(both, (16, 20), generators(2))
        assert not found[0, 2].any()
        assert torch.equal(found[1], noise(second, (16, 20), generators(1, seed=1))[0])


def test_box_edges_of_an_empty_mask() -> None:
    masks = torch.zeros(1, 2, 5, 7, dtype=torch.bool)
    masks[0, 0, 1:4, 6] = True
    assert [edge[0].tolist() for edge in box_edges(masks, 0)] == [[1, 0], [4, 0]]
    assert [edge[0].tolist() for edge in box_edges(masks, 1)] == [[6, 0], [7, 0]]


def test_build_noise() -> None:
    assert build_noise(PilotConfig(noise_ratio=0)) is no_noise
    assert build_noise(PilotConfig(noise="none")) is no_noise
    assert build_noise(PilotConfig(variant="official")) == PointNoise(0.2, each_cell=True)
