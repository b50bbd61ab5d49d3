"""Noise on the GT masks of the MP part.

Point, shift and scale noise are those of MP-Former (section 4.3). Cell and neighbour noise are not
in the paper: they change the cells of each layer's own grid, where attention uses them.

Noise is drawn anew for each decoder layer, from one generator per image. It does not depend on the
other images of a batch whose images have one size: point and cell noise draw over the padded grid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.config import PilotConfig
from mpdiag.ops import to_device

Generators = Sequence[torch.Generator]
Size = tuple[int, int]

PREDICTION_STRIDE = 4  # shift and scale noise move masks on the grid of the mask predictions


@dataclass(slots=True)
class QueryMasks:
    """GT masks of the MP queries at any resolution. A cell is on where the GT covers any of it.

    So no object is lost to interpolation (docs/decisions/0005).

    Attributes:
        masks: (G, H, W) bool of each image, H and W multiples of 4.
        gt: (B, P) GT index of each MP query, -1 for padding; pass it on the CPU, where it is read.
        counts: number of MP queries of each image, up to the last that is not padding.
    """

    masks: Sequence[Tensor]
    gt: Tensor
    counts: list[int] = field(init=False)
    _stride4: Tensor = field(init=False, repr=False)  # of all images
    _first: Tensor = field(init=False, repr=False)  # (B, 1) row of each image's first GT
    _cache: dict[Size, Tensor] = field(default_factory=dict, repr=False)
    _nearest: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.counts = query_counts(self.gt)
        device = self.masks[0].device
        self.gt = to_device(self.gt, device)
        self._stride4 = torch.cat([_stride4(masks) for masks in self.masks])
        sizes = torch.tensor([len(masks) for masks in self.masks])
        self._first = to_device((sizes.cumsum(0) - sizes)[:, None], device)

    def at_prediction_stride(self) -> Tensor:
        """Return (B, P, H/4, W/4) bool masks."""
        return self.at((self._stride4.shape[-2], self._stride4.shape[-1]))

    def at(self, size: Size) -> Tensor:
        """Return (B, P, h, w) bool masks, all off for padding."""
        if size not in self._cache:
            self._cache[size] = self._select(self.gt, size)
        return self._cache[size]

    def nearest_other(self, size: Size) -> Tensor:
        """Return (B, P, h, w) bool masks of the nearest other GT of each query's image.

        Nearest is the one whose centroid has the smallest distance; all off if there is none.
        """
        if self._nearest is None:
            self._nearest = torch.full_like(self.gt, -1)
            by_image = self._stride4.split([len(masks) for masks in self.masks])
            for image, (count, masks) in enumerate(zip(self.counts, by_image, strict=True)):
                if count and len(masks) > 1:
                    nearest = _nearest_mask(masks)
                    self._nearest[image, :count] = nearest[self.gt[image, :count].clamp(min=0)]
            self._nearest = self._nearest.where(self.gt >= 0, -1)
        return self._select(self._nearest, size)

    def _select(self, gt: Tensor, size: Size) -> Tensor:
        """Return (B, P, h, w) bool masks of the given GT (B, P), all off for -1."""
        masks = self._stride4
        if not len(masks):
            return gt.new_zeros(*gt.shape, *size, dtype=torch.bool)
        if masks.shape[1:] != size:
            masks = downsample_masks(masks, size)
        row = torch.where(gt >= 0, gt + self._first, 0)
        return masks[row] & (gt >= 0)[..., None, None]


MaskNoise = Callable[[QueryMasks, Size, Generators], Tensor]
"""(masks, (h, w), generators) -> (B, P, h, w) bool, drawn anew at each call."""


def build_noise(config: PilotConfig) -> MaskNoise:
    """Return the mask noise that the configuration selects."""
    if config.noise == "none" or not config.noise_ratio:
        return no_noise
    if config.noise == "point":
        return PointNoise(config.noise_ratio, each_cell=config.variant == "official")
    kinds: dict[str, type[ShiftNoise | ScaleNoise | CellNoise | NeighbourNoise]] = {
        "shift": ShiftNoise,
        "scale": ScaleNoise,
        "cell": CellNoise,
        "neighbour": NeighbourNoise,
    }
    return kinds[config.noise](config.noise_ratio)


def no_noise(masks: QueryMasks, size: Size, generators: Generators) -> Tensor:
    """Return the GT masks unchanged."""
    return masks.at(size)


@dataclass(frozen=True, slots=True)
class PointNoise:
    """Flip random cells of a layer's attention mask.

    Paper: flip a number of points that is uniform in 0..floor(ratio * area) for each mask, anywhere
    on the map; a cell that is drawn twice is flipped once. Official code (`each_cell`): flip every
    cell with probability ratio * area / cells, which is twice as many on average.
    """

    ratio: float
    each_cell: bool = False

    def __call__(self, masks: QueryMasks, size: Size, generators: Generators) -> Tensor:
        visible = masks.at(size).flatten(2)
        cells = visible.shape[-1]
        most = visible.sum(-1, keepdim=True) * self.ratio
        if self.each_cell:
            flips = uniform_per_image(masks.counts, visible.shape, generators) < most / cells
        else:
            flips = self._random_points(masks.counts, visible, most.floor(), generators)
        noised: Tensor = (visible ^ flips).unflatten(2, size)
        return noised

    def _random_points(
        self, counts: list[int], visible: Tensor, most: Tensor, generators: Generators
    ) -> Tensor:
        """Return (B, P, cells) bool, True at the cells to flip."""
        batch, queries, cells = visible.shape
        bound = int(self.ratio * cells)  # independent of the masks, so the GPU need not synchronise
        number = uniform_per_image(counts, (batch, queries, 1), generators)
        number = (number * (most + 1)).floor()
        cell = (uniform_per_image(counts, (batch, queries, bound), generators) * cells).long()
        drawn = torch.arange(bound, device=visible.device) < number
        cell = torch.where(drawn, cell, cells)  # unused draws go to an extra cell
        flips: Tensor = visible.new_zeros(batch, queries, cells + 1).scatter_(-1, cell, True)
        return flips[..., :cells]


@dataclass(frozen=True, slots=True)
class ShiftNoise:
    """Shift each mask by up to `ratio` of half its box, so that its centre stays inside the box.

    The official code draws once per step at stride 8, scales both axes by the width of the map,
    clamps what leaves the image to its border, and inverts the mask from the second layer on; this
    class does none of it.
    """

    ratio: float

    def __call__(self, masks: QueryMasks, size: Size, generators: Generators) -> Tensor:
        draw = 2 * uniform_per_image(masks.counts, (*masks.gt.shape, 2), generators) - 1

        def source_cells(axis: int, low: Tensor, high: Tensor, cells: Tensor) -> Tensor:
            # To the nearest cell: rounded towards zero, masks of few cells would never move.
            shift = (draw[..., axis] * self.ratio * (high - low) / 2).round()
            return cells - shift[..., None]

        return _resample(masks, size, source_cells)


@dataclass(frozen=True, slots=True)
class ScaleNoise:
    """Scale each mask about the centre of its box by a factor in 1 - ratio..1 + ratio.

    The official code inverts the mask from the second layer on; this class does not.
    """

    ratio: float

    def __call__(self, masks: QueryMasks, size: Size, generators: Generators) -> Tensor:
        draw = 2 * uniform_per_image(masks.counts, (*masks.gt.shape, 1), generators) - 1
        factor = (1 + self.ratio * draw).clamp(min=1e-3)

        def source_cells(axis: int, low: Tensor, high: Tensor, cells: Tensor) -> Tensor:
            middle = ((low + high) / 2)[..., None]
            return ((cells + 0.5 - middle) / factor + middle).floor()

        return _resample(masks, size, source_cells)


@dataclass(frozen=True, slots=True)
class CellNoise:
    """Flip each boundary cell of a layer's attention mask with probability `ratio`.

    Boundary cells have a cell of the other value above, below, left or right of them, inside the
    mask or outside. A mask that would lose all its cells stays unchanged.
    """

    ratio: float

    def __call__(self, masks: QueryMasks, size: Size, generators: Generators) -> Tensor:
        visible = masks.at(size)
        draw = uniform_per_image(masks.counts, visible.shape, generators)
        noised = visible ^ (boundary_cells(visible) & (draw < self.ratio))
        return torch.where(noised.flatten(2).any(2)[..., None, None], noised, visible)


@dataclass(frozen=True, slots=True)
class NeighbourNoise:
    """Add a part of the nearest other object to each mask, on the grid of the layer.

    The part is up to `ratio` of the other object's cells outside of the mask, uniform for each
    mask, but at least one cell. It consists of the cells that are nearest to the mask's centroid.
    """

    ratio: float

    def __call__(self, masks: QueryMasks, size: Size, generators: Generators) -> Tensor:
        visible = masks.at(size).flatten(2)
        other = masks.nearest_other(size).flatten(2) & ~visible
        draw = uniform_per_image(masks.counts, (*masks.gt.shape, 1), generators)
        number = (draw * self.ratio * other.sum(-1, keepdim=True)).ceil()
        cells = torch.cartesian_prod(
            *(torch.arange(length, device=visible.device, dtype=torch.float32) for length in size)
        )
        weight = visible.float()
        centroid = weight @ cells / weight.sum(-1, keepdim=True).clamp(min=1)
        distance = (cells - centroid[:, :, None]).square().sum(-1)
        order = distance.masked_fill(~other, torch.inf).argsort(dim=-1, stable=True)
        rank = order.argsort(dim=-1)
        noised: Tensor = (visible | (other & (rank < number))).unflatten(2, size)
        return noised


def boundary_cells(masks: Tensor) -> Tensor:
    """Return the cells of (..., h, w) bool masks with a cell of the other value next to them."""
    rows = masks[..., 1:, :] ^ masks[..., :-1, :]
    columns = masks[..., 1:] ^ masks[..., :-1]
    vertical = F.pad(rows, (0, 0, 0, 1)) | F.pad(rows, (0, 0, 1, 0))
    return vertical | F.pad(columns, (0, 1)) | F.pad(columns, (1, 0))


def _nearest_mask(masks: Tensor) -> Tensor:
    """Return for each of (G, h, w) masks, G > 1, the index of the one with the nearest centroid."""
    weight = masks.float()
    area = weight.flatten(1).sum(1).clamp(min=1)
    centroid = torch.stack(
        [
            (weight.sum(2 - axis) * torch.arange(masks.shape[1 + axis], device=masks.device)).sum(1)
            for axis in (0, 1)
        ],
        dim=1,
    )
    distance = torch.cdist(centroid / area[:, None], centroid / area[:, None])
    return distance.fill_diagonal_(torch.inf).argmin(1)


def query_counts(gt: Tensor) -> list[int]:
    """Return for each row of (B, P) the number of entries up to the last that is not -1."""
    numbers = torch.arange(1, gt.shape[1] + 1, device=gt.device)
    counts: list[int] = torch.where(gt >= 0, numbers, 0).amax(1).tolist()
    return counts


def uniform_per_image(
    counts: Sequence[int], shape: Sequence[int], generators: Generators
) -> Tensor:
    """Return (B, P, ...) uniform values in [0, 1).

    The first `counts` queries of each image come from its generator; the others are 1.
    """
    values = torch.ones(*shape, device=generators[0].device)
    for image, (count, generator) in enumerate(zip(counts, generators, strict=True)):
        values[image, :count].uniform_(generator=generator)
    return values


def _stride4(masks: Tensor) -> Tensor:
    """Max-pool (G, H, W) bool masks to (G, H/4, W/4).

    Four cells of a row are read as one integer: float copies of the masks would be large.
    """
    rows = masks.contiguous().view(torch.int32) != 0
    return rows[:, 0::4] | rows[:, 1::4] | rows[:, 2::4] | rows[:, 3::4]


def box_edges(masks: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return the box edges of (B, P, h, w) masks along y (axis 0) or x (axis 1), in cells.

    Returns:
        (B, P) low and high edge; both 0 for an empty mask.
    """
    occupied = masks.any(3 - axis)
    cells = torch.arange(occupied.shape[-1], device=masks.device)
    high = torch.where(occupied, cells + 1, 0).amax(-1)
    low = torch.where(occupied, cells, occupied.shape[-1]).amin(-1)
    return torch.minimum(low, high), high


def downsample_masks(masks: Tensor, size: Size) -> Tensor:
    """Max-pool (..., H, W) bool masks to `size`: a cell is on where any of its pixels is."""
    pooled = F.adaptive_max_pool2d(masks.flatten(0, -3).float(), size)
    return pooled.bool().view(*masks.shape[:-2], *size)


def _resample(
    queries: QueryMasks, size: Size, source_cells: Callable[[int, Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Move masks at the prediction stride and max-pool them to `size`; off outside of the map.

    `source_cells` maps an axis, (B, P) box edges and cell indices to the (B, P, cells) indices of
    the cells to copy.
    """
    masks = queries.at_prediction_stride()
    height, width = masks.shape[-2:]
    rows, columns = (
        source_cells(axis, *box_edges(masks, axis), torch.arange(length, device=masks.device))
        for axis, length in enumerate((height, width))
    )
    row_inside, column_inside = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    at_rows = rows.long().clamp(0, height - 1)[..., None].expand_as(masks)
    at_columns = columns.long().clamp(0, width - 1)[..., None, :].expand_as(masks)
    inside = row_inside[..., None] & column_inside[..., None, :]
    return downsample_masks(masks.gather(2, at_rows).gather(3, at_columns) & inside, size)
