"""From one image's last predictions to instances, panoptic segments or a class map.

The post-processing that Mask2Former publishes (`mask2former/maskformer_model.py`, and
`sem_seg_postprocess` of detectron2). Each function takes the final layer's predictions of one
image, class logits (N, K + 1) and mask logits (N, h, w), and resizes a few masks at a time, so
that no float copy of all N masks at the output size is ever made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MASKS_AT_ONCE = 16

InstanceRule = Literal["mask2former", "detr", "sigmoid"]
"""How instances are taken from queries, by whose post-processing.

mask2former  the most probable pairs of query and class, scored by their masks' quality as well
detr         each query once, by its most probable class and scored by that alone (DETR, PostProcess
             and PostProcessSegm)
sigmoid      the pairs with the highest scores, each class by itself: its logit against no-object's
             (Conditional DETR and RF-DETR, which have a sigmoid for each class); masks are resized
             in one step, from the image's cells to the output (RF-DETR)
"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The (height, width) that an image has on its way through the model, in pixels.

    padded  what the model saw, a whole batch's size; the mask logits cover it, ours at stride 4
    image   its upper left part that shows this image
    output  the size that is asked for, as a rule that of the image file
    """

    padded: tuple[int, int]
    image: tuple[int, int]
    output: tuple[int, int]

    def cells(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of a grid over the padded size that the image touches."""
        rows, columns = (
            -(-own * count // whole)
            for own, count, whole in zip(self.image, grid, self.padded, strict=True)
        )
        return rows, columns


@dataclass(frozen=True, slots=True)
class Instances:
    """D detections of one image at the output size (H, W), the highest score first.

    scores   float32 (D,), class probability times mask quality, in 0..1
    labels   int64 (D,), class index
    masks    bool (D, H, W); they may overlap, and a query may give several, of different classes
    queries  int64 (D,), which query each comes from
    """

    scores: Tensor
    labels: Tensor
    masks: Tensor
    queries: Tensor


@dataclass(frozen=True, slots=True)
class PanopticSegments:
    """S disjoint segments of one image at the output size (H, W).

    ids     int32 (H, W), the segment of each pixel: 1..S, or 0 for void
    labels  int64 (S,), class index of segment 1..S
    """

    ids: Tensor
    labels: Tensor


@torch.no_grad()
def instance_inference(
    class_logits: Tensor,
    mask_logits: Tensor,
    sizes: Sizes,
    *,
    detections: int = 100,
    things: Sequence[bool] | None = None,
    rule: InstanceRule = "mask2former",
) -> Instances:
    """The best pairs of query and class: as published, the most probable, scored by quality too.

    A mask is where its logit is > 0; its quality is the mean probability therein, and 0 if it is
    empty.

    Args:
        class_logits: (N, K + 1), no-object last.
        mask_logits: (N, h, w) over the padded size.
        sizes: the image's sizes.
        detections: how many pairs are taken (TEST.DETECTIONS_PER_IMAGE).
        things: (K,) which classes are countable. Pairs of other classes are taken away from those
            taken, as in a panoptic model; None keeps all.
        rule: whose post-processing.
    """
    scores, queries, labels = _pairs(class_logits.float(), detections, rule)
    if rule == "sigmoid":
        grid = (mask_logits.shape[1], mask_logits.shape[2])
        sizes = Sizes(grid, sizes.cells(grid), sizes.output)
    if things is not None:
        countable = torch.tensor(things, device=labels.device)[labels]
        scores, queries, labels = scores[countable], queries[countable], labels[countable]
    used, row = queries.unique(return_inverse=True)
    masks = torch.empty(len(used), *sizes.output, dtype=torch.bool, device=scores.device)
    quality = torch.empty(len(used), device=scores.device)
    for part, logits in _parts(mask_logits, used, sizes):
        inside = logits > 0
        masks[part] = inside
        area = inside.sum((1, 2))
        quality[part] = (logits.sigmoid() * inside).sum((1, 2)) / (area + 1e-6)
    if rule == "mask2former":
        scores = scores * quality[row]
    scores, order = scores.sort(descending=True, stable=True)
    return Instances(scores, labels[order], masks[row[order]], queries[order])


@torch.no_grad()
def panoptic_inference(
    class_logits: Tensor,
    mask_logits: Tensor,
    sizes: Sizes,
    *,
    things: Sequence[bool],
    object_mask_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
) -> PanopticSegments:
    """Disjoint segments: each pixel goes to the query with the highest class x mask probability.

    A pixel stays void where its query's own mask probability is below 0.5. A query loses all its
    pixels where it wins less than a share of its mask. Segments of one stuff class become one.

    Args:
        class_logits: (N, K + 1), no-object last.
        mask_logits: (N, h, w) over the padded size.
        sizes: the image's sizes.
        things: (K,) which classes are countable; the others are stuff.
        object_mask_threshold: queries take part whose class, which isn't no-object, has a higher
            probability.
        overlap_threshold: the share of its mask that a query has to win.
    """
    scores, labels = class_logits.float().softmax(-1).max(-1)
    is_object = labels < class_logits.shape[1] - 1
    kept = (is_object & (scores > object_mask_threshold)).nonzero()[:, 0]
    device = mask_logits.device
    highest = torch.full(sizes.output, -1.0, device=device)
    winner = torch.zeros(sizes.output, dtype=torch.int64, device=device)
    inside = torch.zeros(sizes.output, dtype=torch.bool, device=device)
    areas = torch.zeros(len(kept), dtype=torch.int64, device=device)
    for part, logits in _parts(mask_logits, kept, sizes):
        masks = logits.sigmoid()
        areas[part] = (masks >= 0.5).sum((1, 2))
        value, index = (masks * scores[kept[part], None, None]).max(0)
        better = value > highest
        highest = torch.where(better, value, highest)
        winner = torch.where(better, index + part.start, winner)
        inside = torch.where(better, masks.gather(0, index[None])[0] >= 0.5, inside)
    won = winner.flatten().bincount(minlength=len(kept))
    seen = winner[inside].bincount(minlength=len(kept))
    enough = (seen > 0) & (won.double() / areas >= overlap_threshold)
    ids, segments = _number(labels[kept].tolist(), enough.tolist(), things)
    table = torch.tensor([*ids, 0], dtype=torch.int32, device=device)
    return PanopticSegments(
        torch.where(inside, table[winner], 0),
        torch.tensor(segments, dtype=torch.int64, device=device),
    )


def semantic_inference(
    class_logits: Tensor, mask_logits: Tensor, sizes: Sizes, *, resize_scores: bool = False
) -> Tensor:
    """int64 (H, W): the class with the highest score; arguments are those of `semantic_scores`."""
    return semantic_scores(class_logits, mask_logits, sizes, resize_scores=resize_scores).argmax(0)


@torch.no_grad()
def semantic_scores(
    class_logits: Tensor, mask_logits: Tensor, sizes: Sizes, *, resize_scores: bool = False
) -> Tensor:
    """float32 (K, H, W): of each class, the sum over queries of class x mask probability.

    Args:
        class_logits: (N, K + 1), no-object last.
        mask_logits: (N, h, w) over the padded size.
        sizes: the image's sizes.
        resize_scores: what is resized to the output size: False for the mask logits, as models
            do that also give instances or panoptic segments; True for the class scores, as
            models do that give nothing else (SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE).
    """
    probability = class_logits.float().softmax(-1)[:, :-1]
    before = Sizes(sizes.padded, sizes.padded, sizes.padded) if resize_scores else sizes
    scores = torch.zeros(probability.shape[1], *before.output, device=mask_logits.device)
    everyone = torch.arange(len(mask_logits), device=mask_logits.device)
    for part, logits in _parts(mask_logits, everyone, before):
        scores.flatten(1).addmm_(probability[part].T, logits.sigmoid().flatten(1))
    return _cut_and_resize(scores, sizes) if resize_scores else scores


def _pairs(
    class_logits: Tensor, detections: int, rule: InstanceRule
) -> tuple[Tensor, Tensor, Tensor]:
    """Score, query and class of the best pairs, the highest score first."""
    if rule == "detr":
        highest, classes = class_logits.softmax(-1)[:, :-1].max(-1)
        scores, queries = highest.topk(min(detections, len(highest)))
        return scores, queries, classes[queries]
    if rule == "sigmoid":
        values = (class_logits[:, :-1] - class_logits[:, -1:]).sigmoid()
    else:
        values = class_logits.softmax(-1)[:, :-1]
    scores, pair = values.flatten().topk(min(detections, values.numel()))
    return scores, pair // values.shape[1], pair % values.shape[1]


def _parts(mask_logits: Tensor, queries: Tensor, sizes: Sizes) -> Iterator[tuple[slice, Tensor]]:
    """A few queries at a time: their place among `queries`, and their logits at the output size.

    First to the padded size, then cut to the image, then to the output, as published: in one step
    the borders would differ.
    """
    for start in range(0, len(queries), MASKS_AT_ONCE):
        part = slice(start, start + MASKS_AT_ONCE)
        padded = _bilinear(mask_logits[queries[part]].float(), sizes.padded)
        yield part, _cut_and_resize(padded, sizes)


def _cut_and_resize(maps: Tensor, sizes: Sizes) -> Tensor:
    return _bilinear(maps[:, : sizes.image[0], : sizes.image[1]], sizes.output)


def _bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[1:] == size:
        return maps
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def _number(
    labels: list[int], enough: list[bool], things: Sequence[bool]
) -> tuple[list[int], list[int]]:
    """Segment id of each query, 0 for those that fall out, and the class of each segment."""
    ids: list[int] = []
    segments: list[int] = []
    stuff: dict[int, int] = {}
    for label, has_enough in zip(labels, enough, strict=True):
        if not has_enough:
            ids.append(0)
        elif label in stuff:
            ids.append(stuff[label])
        else:
            segments.append(label)
            ids.append(len(segments))
            if not things[label]:
                stuff[label] = len(segments)
    return ids, segments
