"""Noise on GT masks against section 4.3 of the paper, by brute force."""

import pytest
import torch
from torch import Tensor

from mpdiag.config import PilotConfig
from mpdiag.models.mask_noise import (
    CellNoise,
    NeighbourNoise,
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


def test_shift_is_rounded_to_the_nearest_cell() -> None:
    cells = torch.zeros(20, 20, dtype=torch.bool)
    cells[5:15, 5:15] = True  # shifts are uniform in -1..1 cells along each axis
    noised = ShiftNoise(0.2)(query_masks(cells, 2000), (20, 20), generators())
    for axis in (0, 1):
        low, _ = box_edges(noised, axis)
        moves = (low[0] - 5).long()
        share = [(moves == move).float().mean().item() for move in (-1, 0, 1)]
        assert share == pytest.approx([0.25, 0.5, 0.25], abs=0.04)


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


@pytest.mark.parametrize("noise", ["point", "shift", "scale", "cell", "neighbour"])
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
    kinds = (ShiftNoise(1), ScaleNoise(1), CellNoise(0.5), NeighbourNoise(0.5))
    for noise in (PointNoise(0.5), PointNoise(0.5, each_cell=True), *kinds):
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


def brute_force_boundary(mask: Tensor) -> set[tuple[int, int]]:
    height, width = mask.shape
    return {
        (y, x)
        for y in range(height)
        for x in range(width)
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        if 0 <= v < height and 0 <= u < width and mask[y, x] != mask[v, u]
    }


@pytest.mark.parametrize("size", [(32, 40), (16, 20), (8, 10), (4, 5)])
def test_cell_noise_flips_a_share_of_the_boundary_at_the_layers_resolution(
    blob: Tensor, size: tuple[int, int]
) -> None:
    masks = query_masks(blob, 400)
    plain = masks.at(size)[0, 0]
    noised = CellNoise(0.2)(masks, size, generators())[0]
    boundary = brute_force_boundary(plain)
    flips = (noised ^ plain).float()
    assert {(int(y), int(x)) for y, x in flips.sum(0).nonzero()} == boundary
    assert (flips.sum() / (400 * len(boundary))).item() == pytest.approx(0.2, abs=0.02)
    assert noised.flatten(1).any(1).all()


def test_cell_noise_leaves_no_mask_empty() -> None:
    cells = torch.zeros(8, 8, dtype=torch.bool)
    cells[3, 3] = True
    noised = CellNoise(1.0)(query_masks(cells, 50), (8, 8), generators())[0]
    assert noised[:, [2, 4, 3, 3], [3, 3, 2, 4]].all() and not noised[:, 3, 3].any()
    whole = torch.ones(2, 2, dtype=torch.bool)  # has no boundary inside of the image
    assert CellNoise(1.0)(query_masks(whole, 5), (2, 2), generators()).all()
    half = torch.tensor([[True, False]])  # its flip is empty on the left and full on the right
    assert CellNoise(1.0)(query_masks(half, 1), (1, 2), generators())[0, 0].tolist() == [
        [False, True]
    ]


def three_objects() -> QueryMasks:
    """Objects on the stride-4 grid at the left, in the middle and at the right; one query each."""
    cells = torch.zeros(3, 8, 24, dtype=torch.bool)
    cells[0, 2:4, 1:3] = True
    cells[1, 2:6, 6:10] = True
    cells[2, 1:7, 18:23] = True
    pixels = cells.repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)
    return QueryMasks([pixels], torch.arange(3)[None].repeat(1, 60))


@pytest.mark.parametrize("size", [(8, 24), (4, 12), (2, 6)])
def test_neighbour_noise_adds_the_nearest_cells_of_the_nearest_object(
    size: tuple[int, int],
) -> None:
    masks = three_objects()
    plain = masks.at(size)[0]
    noised = NeighbourNoise(0.5)(masks, size, generators())[0]
    added = noised & ~plain
    assert torch.equal(noised | plain, noised)
    for query, mask in enumerate(added):
        own, other = plain[query], plain[{0: 1, 1: 0, 2: 1}[query % 3]]
        candidates = (other & ~own).nonzero().tolist()
        y, x = own.nonzero().double().mean(0).tolist()
        candidates.sort(key=lambda cell: (cell[0] - y) ** 2 + (cell[1] - x) ** 2)
        count = int(mask.sum())
        assert 1 <= count <= -(-len(candidates) // 2)
        distances = [(v - y) ** 2 + (u - x) ** 2 for v, u in mask.nonzero().tolist()]
        nearest = [(v - y) ** 2 + (u - x) ** 2 for v, u in candidates[:count]]
        assert sorted(distances) == pytest.approx(sorted(nearest), abs=1e-4)
    if size == (8, 24):
        assert {int(x.sum()) for x in added[::3]} == set(range(1, 9))  # of 16 cells


def test_neighbour_noise_changes_nothing_without_another_object(blob: Tensor) -> None:
    masks = query_masks(blob, 3)
    assert torch.equal(NeighbourNoise(1.0)(masks, (16, 20), generators()), masks.at((16, 20)))
