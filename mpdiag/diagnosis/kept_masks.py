"""Masks of all layers and the GT of an image, for scores of pixels: PQ and mIoU."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.data import GroundTruth
from mpdiag.metrics.panoptic_quality import segment_map
from mpdiag.metrics.weighted_ap import Ints
from mpdiag.models import ImageSizes

MAX_CELLS = 64
"""Cells of a side of the mask logits that are kept. Larger ones are reduced."""

MAX_LOGIT = 1e4  # infinite ones have no interpolation
PIXELS_PER_CELL = 4  # of an image side that is scored, at most, per cell of `MAX_CELLS`


@dataclass(frozen=True, slots=True)
class KeptMasks:
    """Masks of N queries in S layers, and the GT.

    Attributes:
        logits: float16 (M, h, w) over the padded image.
        rows: (S, N) row of `logits` of each query.
        gt: int32 (H, W) GT of each pixel from 1, 0 for none.
        sizes: (3, 2) padded size, image size and (H, W).
    """

    logits: npt.NDArray[np.float16]
    rows: Ints
    gt: npt.NDArray[np.int32]
    sizes: Ints

    @classmethod
    def keep(cls, mask_logits: Tensor, sizes: ImageSizes, truth: GroundTruth) -> Self:
        """Keep the (S, N, h, w) mask logits of one image and its GT.

        Logits of more than `MAX_CELLS` cells are averaged, and GT of more than four times as many
        pixels is sampled, so that the memory of an image has a limit. Small GT may vanish.
        """
        layers, queries, *grid = mask_logits.shape
        flat = mask_logits.flatten(0, 1)
        gt = segment_map(truth.masks)
        reduced = max(grid) / MAX_CELLS
        if reduced > 1:
            flat = F.interpolate(flat[None], size=_divide(grid, reduced), mode="area")[0]
        shrunk = max(gt.shape) / (MAX_CELLS * PIXELS_PER_CELL)
        if shrunk > 1:
            size = _divide(gt.shape, shrunk)
            gt = F.interpolate(gt[None, None].double(), size=size, mode="nearest-exact")[0, 0].int()
        scale = max(reduced, 1)
        return cls(
            logits=flat.clamp(-MAX_LOGIT, MAX_LOGIT).half().cpu().numpy(),
            rows=np.arange(layers * queries).reshape(layers, queries),
            gt=gt.numpy(),
            sizes=np.array([_divide(sizes.padded, scale), _divide(sizes.image, scale), gt.shape]),
        )

    @property
    def image_sizes(self) -> ImageSizes:
        """Sizes for the inference functions of `mpdiag.models`."""
        padded, image, output = ((int(one[0]), int(one[1])) for one in self.sizes)
        return ImageSizes(padded, image, output)

    def layer(self, layer: int, queries: Ints) -> Tensor:
        """Return the float32 (n, h, w) mask logits of queries in a layer."""
        return torch.from_numpy(self.logits[self.rows[layer, queries]]).float()


def _divide(size: Sequence[int], by: float) -> tuple[int, int]:
    rows, columns = size
    return max(round(rows / by), 1), max(round(columns / by), 1)
