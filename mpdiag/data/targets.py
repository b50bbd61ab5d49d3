"""Convert samples to the targets of matching and losses."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from mpdiag.data.sample import Sample
from mpdiag.matching import Target
from mpdiag.ops import to_device


def padded_targets(
    samples: Sequence[Sample], size: tuple[int, int], device: torch.device | str = "cpu"
) -> list[Target]:
    """Return the targets of a batch on `device`.

    Masks are padded on the right and the bottom to `size`, the (height, width) of the batch.
    """
    height, width = size
    return [
        Target(
            labels=to_device(sample.labels, device),
            masks=F.pad(
                to_device(sample.masks, device),
                (0, width - sample.masks.shape[-1], 0, height - sample.masks.shape[-2]),
            ),
        )
        for sample in samples
    ]
