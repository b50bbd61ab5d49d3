"""Sums of the layer metrics over the images of a step or of an evaluation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mpdiag.metrics import ImageRows, adjacent_iou
from mpdiag.store.layer_metrics import DUPLICATE_IOU

NEEDS_GT = ("util", "instability", "duplicates")
_NAMES = ("miou_l", "empty_masks", *NEEDS_GT)


class LayerStatistics:
    """Means over images and queries, in the conventions of `mpdiag analyze` (docs/metrics.md).

    Attributes:
        images: number of images that were added in this process.
        matches: (N,) number of images in which each query matches a GT in the last layer.
    """

    def __init__(self, num_layers: int, num_queries: int) -> None:
        """Create empty sums of `num_layers` predictions (L + 1) of N queries."""
        self.images = 0
        self.matches = torch.zeros(num_queries, dtype=torch.float64)
        # Per metric and layer: sum of the values, and their number.
        self._sums = torch.zeros(len(_NAMES), 2, num_layers, dtype=torch.float64)

    def add(self, rows: ImageRows, labels: Tensor | None) -> None:
        """Add an image and the (G,) labels of its GT on the CPU; None if the GT is unknown."""
        self.images += 1
        count = torch.zeros(len(_NAMES), 2, len(rows.area), dtype=torch.float64)
        at = dict(zip(_NAMES, count, strict=True))
        at["miou_l"][:, 1:] = _iou_sums(rows)
        at["empty_masks"][0] = ((rows.area == 0) & rows.finite).sum(-1)
        at["empty_masks"][1] = rows.finite.sum(-1)
        if labels is not None:
            matched = rows.matched_gt
            self.matches += matched[-1] >= 0
            at["instability"][0, 1:] = (matched[1:] != matched[:-1]).sum(-1)
            at["instability"][1, 1:] = 1
            at["duplicates"][:] = _duplicates(rows, labels)
            if len(labels):
                at["util"][0], at["util"][1] = rows.util, 1
        self._sums += count

    @classmethod
    def total(cls, parts: Sequence["LayerStatistics"]) -> "LayerStatistics":
        """Return the sums over the images of all parts, of which there is at least one."""
        total = cls(parts[0]._sums.shape[-1], len(parts[0].matches))
        for part in parts:
            total.images += part.images
            total.matches += part.matches
            total._sums += part._sums
        return total

    def values(self) -> dict[str, float]:
        """Return `NAME/LAYER` -> mean, without those that have nothing to average."""
        return {
            f"{name}/{layer}": total / number
            for name, (totals, numbers) in zip(_NAMES, self._sums.tolist(), strict=True)
            for layer, (total, number) in enumerate(zip(totals, numbers, strict=True))
            if number
        }


def _iou_sums(rows: ImageRows) -> Tensor:
    """Return (2, L): sum of the IoU with the layer before, and number of pairs that have one."""
    iou = adjacent_iou(rows.intersection, rows.area)
    counted = ~iou.isnan() & rows.finite[:-1] & rows.finite[1:]
    return torch.stack([torch.where(counted, iou, 0.0).sum(-1), counted.sum(-1).double()])


def _duplicates(rows: ImageRows, labels: Tensor) -> Tensor:
    """Return (2, L + 1): among the G most confident queries, those that repeat a GT; and G."""
    score = rows.score.masked_fill(~rows.finite, -1)
    place = score.sort(dim=-1, descending=True, stable=True).indices[:, : len(labels)]
    counted = rows.finite.gather(1, place)
    if not len(labels):
        return torch.zeros(2, len(score), dtype=torch.float64)
    best = rows.best_gt
    right = labels[best.clamp(min=0)] == rows.label
    found = torch.where((best >= 0) & (rows.best_gt_iou >= DUPLICATE_IOU) & right, best, -1)
    found = found.gather(1, place)
    same = (found[:, :, None] == found[:, None, :]) & (found >= 0)[:, :, None]
    repeats = same.tril(-1).any(-1) & counted
    return torch.stack([repeats.sum(-1), counted.sum(-1)]).double()
