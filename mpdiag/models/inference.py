"""Post-processing of one image's predictions to instances, panoptic segments or a class map.

It follows the official Mask2Former (`mask2former/maskformer_model.py`, and `sem_seg_postprocess` of
detectron2). The functions take the final layer's class logits (N, K + 1) and mask logits (N, h, w).
Masks are resized in chunks, so there is never a float copy of all N masks at the output size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mpdiag.ops import masks_of_logits, resize_maps
from mpdiag.recording.family import InstanceRule

CHUNK_SIZE = 16
OBJECT_MASK_THRESHOLD = 0.8  # of the published panoptic models


@dataclass(frozen=True, slots=True)
class ImageSizes:
    """Sizes of an image in preprocessing and post-processing, (height, width) in pixels.

    Attributes:
        padded: size of the padded batch, which the mask logits cover.
        image: size of the resized image, the upper left part of the padded one.
        output: requested output size, usually that of the image file.
    """

    padded: tuple[int, int]
    image: tuple[int, int]
    output: tuple[int, int]

    def valid_cells(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns that the image covers of a grid over the padded size."""
        rows, columns = (
            -(-own * count // whole)
            for own, count, whole in zip(self.image, grid, self.padded, strict=True)
        )
        return rows, columns


@dataclass(frozen=True, slots=True)
class Instances:
    """D detections of one image at the output size (H, W), sorted by descending score.

    Masks may overlap. A query may yield several detections with different classes; its mask is
    stored once.

    Attributes:
        scores: float32 (D,) in 0..1, class probability times mask quality.
        labels: int64 (D,) class index.
        queries: int64 (D,) query of each detection.
        query_masks: bool (U, H, W) masks of the queries with a detection.
        rows: int64 (D,) row of `query_masks` of each detection.
    """

    scores: Tensor
    labels: Tensor
    queries: Tensor
    query_masks: Tensor
    rows: Tensor

    @property
    def masks(self) -> Tensor:
        """A new bool (D, H, W) tensor with the mask of each detection."""
        return self.query_masks[self.rows]


@dataclass(frozen=True, slots=True)
class PanopticSegments:
    """S disjoint segments of one image at the output size (H, W).

    Attributes:
        ids: int32 (H, W), segment of each pixel, 1..S, or 0 for void.
        labels: int64 (S,) class index of segments 1..S.
    """

    ids: Tensor
    labels: Tensor


@torch.no_grad()
def instance_inference(
    class_logits: Tensor,
    mask_logits: Tensor,
    sizes: ImageSizes,
    *,
    detections: int = 100,
    things: Sequence[bool] | None = None,
    rule: InstanceRule = "mask2former",
) -> Instances:
    """Return the best pairs of query and class as instances.

    A mask is the area with logits > 0. Its quality is the mean probability inside, or 0 if it is
    empty.

    Args:
        class_logits: (N, K + 1), no-object last.
        mask_logits: (N, h, w) over the padded size.
        sizes: sizes of the image.
        detections: number of pairs to select (TEST.DETECTIONS_PER_IMAGE).
        things: (K,) which classes are things. Selected pairs of other classes are dropped, as by a
            panoptic model; None keeps all.
        rule: how pairs are selected and scored.
    """
    scores, queries, labels = select_pairs(class_logits.float(), detections, rule)
    if rule == "sigmoid":
        grid = (mask_logits.shape[1], mask_logits.shape[2])
        sizes = ImageSizes(grid, sizes.valid_cells(grid), sizes.output)
    if things is not None:
        countable = torch.tensor(things, device=labels.device)[labels]
        scores, queries, labels = scores[countable], queries[countable], labels[countable]
    used, row = queries.unique(return_inverse=True)
    masks = torch.empty(len(used), *sizes.output, dtype=torch.bool, device=scores.device)
    quality = torch.empty(len(used), device=scores.device)
    for part, logits in resized_chunks(mask_logits, used, sizes):
        masks[part], area, probability = masks_of_logits(logits)
        quality[part] = probability / (area + 1e-6)
    if rule == "mask2former":
        scores = scores * quality[row]
    scores, order = scores.sort(descending=True, stable=True)
    return Instances(scores, labels[order], queries[order], masks, row[order])


@torch.no_grad()
def panoptic_inference(
    class_logits: Tensor,
    mask_logits: Tensor,
    sizes: ImageSizes,
    *,
    things: Sequence[bool],
    object_mask_threshold: float = OBJECT_MASK_THRESHOLD,
    overlap_threshold: float = 0.8,
) -> PanopticSegments:
    """Assign each pixel to the query with the highest product of class and mask probability.

    Pixels where the mask probability of that query is below 0.5 are void. A query is dropped if it
    wins less than `overlap_threshold` of its mask. Segments of one stuff class are merged.

    Args:
        class_logits: (N, K + 1), no-object last.
        mask_logits: (N, h, w) over the padded size.
        sizes: sizes of the image.
        things: (K,) which classes are things; the others are stuff.
        object_mask_threshold: queries with a lower class probability are dropped.
        overlap_threshold: fraction of its mask that a query must win.
    """
    scores, labels = class_logits.float().softmax(-1).max(-1)
    is_object = labels < class_logits.shape[1] - 1
    kept = (is_object & (scores > object_mask_threshold)).nonzero()[:, 0]
    device = mask_logits.device
    highest = torch.full(sizes.output, -1.0, device=device)
    winner = torch.zeros(sizes.output, dtype=torch.int64, device=device)
    inside = torch.zeros(sizes.output, dtype=torch.bool, device=device)
    areas = torch.zeros(len(kept), dtype=torch.int64, device=device)
    for part, logits in resized_chunks(mask_logits, kept, sizes):
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
    ids, segments = _number_segments(labels[kept].tolist(), enough.tolist(), things)
    table = torch.tensor([*ids, 0], dtype=torch.int32, device=device)
    return PanopticSegments(
        torch.where(inside, table[winner], 0),
        torch.tensor(segments, dtype=torch.int64, device=device),
    )


def semantic_inference(
    class_logits: Tensor, mask_logits: Tensor, sizes: ImageSizes, *, resize_scores: bool = False
) -> Tensor:
    """Return the int64 (H, W) class map with the highest `semantic_scores`."""
    return semantic_scores(class_logits, mask_logits, sizes, resize_scores=resize_scores).argmax(0)


@torch.no_grad()
def semantic_scores(
    class_logits: Tensor, mask_logits: Tensor, sizes: ImageSizes, *, resize_scores: bool = False
) -> Tensor:
    """Return float32 (K, H, W) class scores: sums over queries of class times mask probability.

    Args:
        class_logits: (N, K + 1), no-object last.
        mask_logits: (N, h, w) over the padded size.
        sizes: sizes of the image.
        resize_scores: resize the class scores to the output size instead of the mask logits, as
            official models for semantic segmentation only do
            (SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False).
    """
    probability = class_logits.float().softmax(-1)[:, :-1]
    before = ImageSizes(sizes.padded, sizes.padded, sizes.padded) if resize_scores else sizes
    scores = torch.zeros(probability.shape[1], *before.output, device=mask_logits.device)
    queries = torch.arange(len(mask_logits), device=mask_logits.device)
    for part, logits in resized_chunks(mask_logits, queries, before):
        scores.flatten(1).addmm_(probability[part].T, logits.sigmoid().flatten(1))
    return _crop_and_resize(scores, sizes) if resize_scores else scores


def select_pairs(
    class_logits: Tensor, detections: int, rule: InstanceRule
) -> tuple[Tensor, Tensor, Tensor]:
    """Return score, query and class of the best pairs, sorted by descending score."""
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


def resized_chunks(
    mask_logits: Tensor, queries: Tensor, sizes: ImageSizes
) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of `queries` with their mask logits at the output size.

    As in the official code, logits are resized to the padded size, cropped to the image and resized
    to the output size. Resizing in one step would change the borders.
    """
    for start in range(0, len(queries), CHUNK_SIZE):
        part = slice(start, start + CHUNK_SIZE)
        padded = _bilinear(mask_logits[queries[part]].float(), sizes.padded)
        yield part, _crop_and_resize(padded, sizes)


def _crop_and_resize(maps: Tensor, sizes: ImageSizes) -> Tensor:
    return _bilinear(maps[:, : sizes.image[0], : sizes.image[1]], sizes.output)


def _bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[1:] == size:
        return maps
    return resize_maps(maps, size)


def _number_segments(
    labels: list[int], enough: list[bool], things: Sequence[bool]
) -> tuple[list[int], list[int]]:
    """Return the segment id of each query, 0 if it is dropped, and the class of each segment."""
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
