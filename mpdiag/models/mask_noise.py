"""Noise on the GT masks of the MP part (MP-Former, section 4.3): point, shift and scale.

Every decoder layer asks anew, so each layer sees noise of its own. All draws come from a stream for
each image and depend on that image alone: neither on the others in the batch nor on padding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.config import PilotConfig

Streams = Sequence[torch.Generator]
Size = tuple[int, int]

FINEST = 4  # the stride of predictions: shapes are moved and scaled on this grid


@dataclass(slots=True)
class SlotMasks:
    """GT masks of the MP slots at any resolution: a cell that a GT touches is on.

    So no object is lost to interpolation (docs/decisions/0005).

    Attributes:
        masks: of each image (G, H, W) bool, H and W multiples of 4.
        gt: (B, P) index of each slot's GT, -1 for padding.
        counts: of each image the number of slots up to its last that is no padding.
    """

    masks: Sequence[Tensor]
    gt: Tensor
    counts: list[int] = field(init=False)
    _finest: list[Tensor] = field(init=False, repr=False)
    _cache: dict[Size, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.counts = laid_out(self.gt)
        # Before anything is made float: a cell of the finest grid is on where any of its pixels is.
        self._finest = [
            masks.unflatten(2, (-1, FINEST)).any(3).unflatten(1, (-1, FINEST)).any(2)
            for masks in self.masks
        ]

    def finest(self) -> Tensor:
        """(B, P, H/4, W/4) bool."""
        return self.at((self._finest[0].shape[-2], self._finest[0].shape[-1]))

    def at(self, size: Size) -> Tensor:
        """(B, P, h, w) bool, all off where a slot is padding."""
        if size not in self._cache:
            rows = self.gt.new_zeros(*self.gt.shape, *size, dtype=torch.bool)
            for image, count in enumerate(self.counts):
                if not count:
                    continue
                touched = self._finest[image]
                if touched.shape[1:] != size:
                    touched = touch(touched, size)
                rows[image, :count] = touched[self.gt[image, :count].clamp(min=0)]
            self._cache[size] = rows & (self.gt >= 0)[..., None, None]
        return self._cache[size]


MaskNoise = Callable[[SlotMasks, Size, Streams], Tensor]
"""(masks, (h, w), streams) -> (B, P, h, w) bool, drawn anew at each call."""


def build_noise(config: PilotConfig) -> MaskNoise:
    """The noise that the settings ask for."""
    if config.noise == "none" or not config.noise_ratio:
        return no_noise
    if config.noise == "point":
        return PointNoise(config.noise_ratio, each_cell=config.follow == "release")
    return (
        ShiftNoise(config.noise_ratio)
        if config.noise == "shift"
        else ScaleNoise(config.noise_ratio)
    )


def no_noise(masks: SlotMasks, size: Size, streams: Streams) -> Tensor:
    """The GT masks as they are."""
    return masks.at(size)


@dataclass(frozen=True, slots=True)
class PointNoise:
    """Flip random cells of a layer's attention mask.

    The paper: a number of points that is uniform in 0..floor(ratio * area) for each mask, anywhere
    on the map; a place that is drawn twice flips once. The released code instead (`each_cell`)
    flips every cell with the probability ratio * area / cells, twice as many in the mean.
    """

    ratio: float
    each_cell: bool = False

    def __call__(self, masks: SlotMasks, size: Size, streams: Streams) -> Tensor:
        visible = masks.at(size).flatten(2)
        cells = visible.shape[-1]
        most = visible.sum(-1, keepdim=True) * self.ratio
        if self.each_cell:
            flips = uniform(masks.counts, visible.shape, streams) < most / cells
        else:
            flips = self._points(masks.counts, visible, most.floor(), streams)
        noised: Tensor = (visible ^ flips).unflatten(2, size)
        return noised

    def _points(self, counts: list[int], visible: Tensor, most: Tensor, streams: Streams) -> Tensor:
        """A bound that does not depend on the masks keeps the device from waiting for the host."""
        batch, slots, cells = visible.shape
        bound = int(self.ratio * cells)
        number = (uniform(counts, (batch, slots, 1), streams) * (most + 1)).floor()
        place = (uniform(counts, (batch, slots, bound), streams) * cells).long()
        drawn = torch.arange(bound, device=visible.device) < number
        place = torch.where(drawn, place, cells)  # a spare cell takes what was not drawn
        flips: Tensor = visible.new_zeros(batch, slots, cells + 1).scatter_(-1, place, True)
        return flips[..., :cells]


@dataclass(frozen=True, slots=True)
class ShiftNoise:
    """Move each mask by up to `ratio` of half its box, so that its centre stays within the box.

    The released code clamps what leaves the image to its border, and feeds the inverted mask from
    the second layer on; neither is done here.
    """

    ratio: float

    def __call__(self, masks: SlotMasks, size: Size, streams: Streams) -> Tensor:
        finest = masks.finest()
        draw = 2 * uniform(masks.counts, (*finest.shape[:2], 2), streams) - 1
        axes = []
        for axis in (0, 1):
            low, high = extent(finest, axis)
            # Towards zero, so that rounding to whole cells does not leave the box.
            shift = (draw[..., axis] * self.ratio * (high - low) / 2).trunc()
            cells = torch.arange(finest.shape[2 + axis], device=finest.device)
            axes.append(cells - shift[..., None])
        return touch(_read(finest, axes[0], axes[1]), size)


@dataclass(frozen=True, slots=True)
class ScaleNoise:
    """Enlarge or shrink each mask about the centre of its box by a factor in 1 - ratio..1 + ratio.

    The released code feeds the inverted mask from the second layer on; that is not done here.
    """

    ratio: float

    def __call__(self, masks: SlotMasks, size: Size, streams: Streams) -> Tensor:
        finest = masks.finest()
        draw = 2 * uniform(masks.counts, (*finest.shape[:2], 1), streams) - 1
        factor = (1 + self.ratio * draw).clamp(min=1e-3)
        axes = []
        for axis in (0, 1):
            low, high = extent(finest, axis)
            middle = ((low + high) / 2)[..., None]
            centers = torch.arange(finest.shape[2 + axis], device=finest.device) + 0.5
            axes.append(((centers - middle) / factor + middle).floor())
        return touch(_read(finest, axes[0], axes[1]), size)


def laid_out(slots: Tensor) -> list[int]:
    """Of each image the number of (B, P) slots up to the last that is not -1."""
    numbers = torch.arange(1, slots.shape[1] + 1, device=slots.device)
    counts: list[int] = torch.where(slots >= 0, numbers, 0).amax(1).tolist()
    return counts


def uniform(counts: Sequence[int], shape: Sequence[int], streams: Streams) -> Tensor:
    """(B, P, ...) uniform in [0, 1), the first `counts` slots of each image from its stream.

    The other slots are 1.
    """
    values = torch.ones(*shape, device=streams[0].device)
    for image, (count, stream) in enumerate(zip(counts, streams, strict=True)):
        values[image, :count].uniform_(generator=stream)
    return values


def extent(masks: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """(B, P) first and last edge of (B, P, h, w) masks along y (0) or x (1), in cells.

    Both are 0 of an empty mask.
    """
    occupied = masks.any(3 - axis)
    cells = torch.arange(occupied.shape[-1], device=masks.device)
    high = torch.where(occupied, cells + 1, 0).amax(-1)
    low = torch.where(occupied, cells, occupied.shape[-1]).amin(-1)
    return torch.minimum(low, high), high


def touch(masks: Tensor, size: Size) -> Tensor:
    """(..., h, w) bool masks on a coarser grid: a cell is on where any of its cells was."""
    pooled = F.adaptive_max_pool2d(masks.flatten(0, -3).float(), size)
    return pooled.bool().view(*masks.shape[:-2], *size)


def _read(masks: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, P, h, w) masks read at (B, P, h) rows and (B, P, w) columns; off outside of the map."""
    height, width = masks.shape[-2:]
    inside = ((rows >= 0) & (rows < height))[..., None] & ((columns >= 0) & (columns < width))[
        ..., None, :
    ]
    at_rows = rows.long().clamp(0, height - 1)[..., None].expand_as(masks)
    at_columns = columns.long().clamp(0, width - 1)[..., None, :].expand_as(masks)
    return masks.gather(2, at_rows).gather(3, at_columns) & inside
