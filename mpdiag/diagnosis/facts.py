"""Facts about the forward passes of the unchanged model: attention masks and self-attention."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from mpdiag.diagnosis.evidence import ImageEvidence
from mpdiag.diagnosis.probe import MATCH_IOU, assigned_gt
from mpdiag.matching import Target
from mpdiag.metrics.image_scores import Floats
from mpdiag.metrics.rows import gt_on_grid
from mpdiag.models import Mask2Former
from mpdiag.recording.recording import grid_of_cells


@dataclass(slots=True)
class AttentionTotals:
    """Sums over the GT of all images, each (L,) for decoder layers 1..L. See `averages`.

    Attributes:
        recall, precision: of the attention mask of the query of a GT.
        attending: queries whose attention mask has an IoU of at least 0.5 with a GT.
        with_query: GT that have a query and a cell.
        without_cell: GT without a cell of the grid.
        gt: number of GT.
    """

    recall: Floats
    precision: Floats
    attending: Floats
    with_query: Floats
    without_cell: Floats
    gt: int = 0

    @classmethod
    def zeros(cls, layers: int) -> "AttentionTotals":
        """Return empty sums."""
        recall, precision, attending, with_query, without_cell = np.zeros((5, layers))
        return cls(recall, precision, attending, with_query, without_cell)

    def add(self, layer: int, visible: Tensor, gt: Tensor, rows: Sequence[tuple[int, int]]) -> None:
        """Add one image in one layer.

        Args:
            layer: position of the layer, 0 for decoder layer 1.
            visible: bool (N, cells), True where a query may attend.
            gt: bool (G, cells).
            rows: pairs of a query and its GT.
        """
        seen, wanted = visible.float(), gt.float()
        shared = seen @ wanted.T
        area, gt_area = seen.sum(1), wanted.sum(1)
        iou = shared / (area[:, None] + gt_area - shared).clamp(min=1)
        self.without_cell[layer] += float((gt_area == 0).sum())
        self.attending[layer] += float((iou >= MATCH_IOU).sum())
        for query, row in rows:
            if gt_area[row] > 0:
                self.with_query[layer] += 1
                self.recall[layer] += float(shared[query, row] / gt_area[row])
                self.precision[layer] += float(shared[query, row] / area[query].clamp(min=1))

    def merge(self, other: "AttentionTotals") -> None:
        """Add the sums of other images."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))

    def averages(self, layer: int) -> dict[str, float | None]:
        """Return the averages of decoder layer `layer` >= 1, None where there is nothing."""
        at = layer - 1
        pairs, gt = self.with_query[at], self.gt
        visible = gt - self.without_cell[at]
        return {
            "attention_recall": _ratio(self.recall[at], pairs),
            "attention_precision": _ratio(self.precision[at], pairs),
            "queries_per_gt": _ratio(self.attending[at], visible),
            "gt_without_cell": _ratio(self.without_cell[at], gt),
        }


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


@dataclass(slots=True)
class ModelFacts:
    """Measurements of forward passes that belong to no image.

    Attributes:
        attention_disagreement: (L,) share of an attention mask that is not the predicted mask of
            the layer before: 1 - IoU, averaged over queries; None if it was not recorded.
        self_attention: (L,) largest absolute output of self-attention over the batches in which it
            has no NaN, NaN if there is none; None if not recorded.
        attention: attention masks compared with GT; None if they were not recorded.
        images: number of images whose attention masks were measured.
    """

    attention_disagreement: npt.NDArray[np.float64] | None = None
    self_attention: npt.NDArray[np.float64] | None = None
    attention: AttentionTotals | None = None
    images: int = 0

    def measure_attention(
        self,
        visible: Sequence[Tensor],
        mask_logits: Tensor,
        targets: Sequence[Target],
        images: Sequence[ImageEvidence],
    ) -> None:
        """Compare the attention masks of a batch with predicted masks and with GT.

        Args:
            visible: bool (B, N, cells) of decoder layers 1..L.
            mask_logits: (L + 1, B, N, h, w).
            targets: GT of the images, padded.
            images: evidence of the images.
        """
        self.attention_disagreement = _disagreement(visible, mask_logits)
        self.images = len(images)
        self.attention = AttentionTotals.zeros(len(visible))
        for index, (target, image) in enumerate(zip(targets, images, strict=True)):
            row_of = sample_rows(image, len(target["masks"]))
            pairs = enumerate(assigned_gt(image).tolist())
            rows = [(query, row_of[gt]) for query, gt in pairs if gt in row_of]
            self.attention.gt += len(target["masks"])
            for layer, used in enumerate(visible):
                gt = gt_on_grid(target["masks"], *_grid(mask_logits, used)).flatten(1)
                self.attention.add(layer, used[index], gt, rows)

    def merge(self, other: "ModelFacts") -> None:
        """Add the facts of other images."""
        if other.attention_disagreement is not None:
            own = 0 if self.attention_disagreement is None else self.attention_disagreement
            total = own * self.images + other.attention_disagreement * other.images
            self.attention_disagreement = total / (self.images + other.images)
            self.images += other.images
        if other.self_attention is not None:
            largest = other.self_attention
            if self.self_attention is not None:
                largest = np.fmax(self.self_attention, largest)
            self.self_attention = largest
        if self.attention is None:
            self.attention = other.attention
        elif other.attention is not None:
            self.attention.merge(other.attention)


def _disagreement(visible: Sequence[Tensor], mask_logits: Tensor) -> Floats:
    """Return the (L,) 1 - IoU of attention masks with the masks predicted before."""
    values = []
    for before, used in zip(mask_logits[:-1], visible, strict=True):
        size = _grid(mask_logits, used)
        implied = F.interpolate(before, size=size, mode="bilinear", align_corners=False) >= 0
        implied = implied.flatten(2)
        implied = implied | ~implied.any(-1, keepdim=True)
        both, either = (implied & used).sum(-1), (implied | used).sum(-1)
        values.append(float((1 - both / either.clamp(min=1)).mean()))
    return np.array(values)


def _grid(mask_logits: Tensor, visible: Tensor) -> tuple[int, int]:
    """Return rows and columns of attention masks (B, N, cells)."""
    height, width = mask_logits.shape[-2:]
    return grid_of_cells((height, width), visible.shape[-1])


def sample_rows(image: ImageEvidence, count: int) -> dict[int, int]:
    """Return the row among the `count` GT of the sample of each GT; empty if they do not agree.

    GT of a sample lack crowds and empty segments; without them, both have the same order.
    """
    kept = np.flatnonzero(~image.gt_crowd & (image.gt_area > 0)).tolist()
    return {gt: row for row, gt in enumerate(kept)} if len(kept) == count else {}


class record_self_attention:
    """Keep the largest absolute output of each layer's self-attention in `facts`."""

    def __init__(self, model: Mask2Former, facts: ModelFacts) -> None:
        self.model, self.facts = model, facts

    def __enter__(self) -> None:
        layers = [layer.get_submodule("self_attn") for layer in self.model.decoder.layers]
        if self.facts.self_attention is None:
            self.facts.self_attention = np.full(len(layers), np.nan)
        self.handles = [
            layer.register_forward_hook(
                lambda module, args, output, place=place: self._keep(place, output)
            )
            for place, layer in enumerate(layers)
        ]

    def _keep(self, place: int, output: Tensor) -> None:
        values = self.facts.self_attention
        assert values is not None
        values[place] = np.fmax(values[place], float(output.abs().max()))

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()
