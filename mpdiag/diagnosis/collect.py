"""Run a model on images and collect the evidence of a diagnosis."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, zip_longest
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.analysis.adapter import ModelAdapter, PreprocessedImage, batch_targets
from mpdiag.analysis.ground_truth import GroundTruthCache
from mpdiag.analysis.shard import Shard
from mpdiag.data import GroundTruth, Sample, SegmentationDataset
from mpdiag.diagnosis.batch_store import BatchEvidence, BatchStore
from mpdiag.diagnosis.changes import Changes, apply_changes
from mpdiag.diagnosis.evidence import REPEATED_IOU, Evidence, ImageEvidence
from mpdiag.diagnosis.facts import ModelFacts, record_self_attention
from mpdiag.diagnosis.kept_masks import KeptMasks
from mpdiag.diagnosis.scorers import build_scorer
from mpdiag.errors import RecordingError
from mpdiag.matching import finite_queries
from mpdiag.models import ImageSizes, Mask2Former
from mpdiag.models.inference import resized_chunks
from mpdiag.recording import Recording, record

NO_CHANGES = Changes()
IMAGES_PER_BLOCK = 8
"""Images that one process takes at a time. Batches do not cross blocks, so that the predictions do
not depend on the number of processes."""

T = TypeVar("T")


class Collector:
    """Collects the evidence of the first images of a data set, under changes to the model."""

    def __init__(
        self,
        adapter: ModelAdapter,
        data: SegmentationDataset,
        indices: Sequence[int],
        device: torch.device,
        progress: Callable[[int], None] | None = None,
        store: BatchStore | None = None,
        shard: Shard | None = None,
    ) -> None:
        """Prepare the collection.

        Args:
            adapter: the model, on its device.
            data: the data set.
            indices: images to use.
            device: device of the model.
            progress: called with the number of images of this process done in each forward pass.
            store: keeps finished batches.
            shard: share of this process, if several processes make the diagnosis. All of them make
                the same calls in the same order.
        """
        self.adapter = adapter
        self.data = data
        self.indices = indices
        self.device = device
        self.ground_truth = GroundTruthCache(data)
        self.progress = progress
        self.store = store
        self.shard = shard or Shard()
        self.scorer = build_scorer(data)

    def collect(
        self,
        changes: Changes = NO_CHANGES,
        *,
        every_layer: bool = False,
        indices: Sequence[int] | None = None,
        stored: bool = True,
    ) -> Evidence:
        """Run the model and collect the evidence of each image.

        Args:
            changes: changes to the model and its input.
            every_layer: collect all layers, not the last one only.
            indices: images to use instead of all.
            stored: use and fill the store; False if the model has other changes as well.
        """
        chosen = self.indices if indices is None else indices

        def measure(batch: Sequence[PreprocessedImage]) -> BatchEvidence:
            found = self._find_batch(batch, changes, every_layer, stored)
            if self.progress:
                self.progress(len(batch))
            return found

        images: list[ImageEvidence] = []
        facts = ModelFacts()
        with apply_changes(self.adapter, changes):
            for found, more in self.measure_batches(chosen, measure, flip=changes.flip):
                images += found
                facts.merge(more)
        rule = self.adapter.info.settings.inference
        return Evidence(images, len(self.data.classes), rule, scorer=self.scorer, facts=facts)

    def measure_batches(
        self,
        indices: Sequence[int],
        measure: Callable[[Sequence[PreprocessedImage]], T],
        *,
        flip: bool = False,
    ) -> list[T]:
        """Return what `measure` returns for each batch of images, in their order.

        Several processes share the batches, and all of them get all results.
        """
        own: list[list[T]] = []
        for block in self.shard.blocks(len(indices), IMAGES_PER_BLOCK):
            samples = map(self.ground_truth.read_sample, (indices[place] for place in block))
            prepared = map(flip_sample, samples) if flip else samples
            own.append([measure(one) for one in self.adapter.batches(prepared, self.device)])
        rounds = zip_longest(*self.shard.gather(own), fillvalue=[])  # process r has block r first
        return list(chain.from_iterable(chain.from_iterable(rounds)))

    def _find_batch(
        self, batch: Sequence[PreprocessedImage], changes: Changes, every_layer: bool, stored: bool
    ) -> BatchEvidence:
        """Return a batch from the store, or measure and store it."""
        if self.store is None or not stored:
            return self._collect_batch(batch, changes, every_layer)
        truths = [self.ground_truth.encoded[image.sample.image_id] for image in batch]
        path = self.store.path(batch, truths, changes, every_layer)
        found = self.store.read(path, len(batch))
        if found is None:
            found = self._collect_batch(batch, changes, every_layer)
            self.store.write(path, *found)
        return found

    @torch.inference_mode()
    def _collect_batch(
        self, batch: Sequence[PreprocessedImage], changes: Changes, every_layer: bool
    ) -> BatchEvidence:
        facts = ModelFacts()
        targets = batch_targets(batch, self.device)
        measured = every_layer and changes == NO_CHANGES
        names = ["query", "attention_mask"] if measured else ["query"]
        with ExitStack() as stack:
            recording = _try_record(stack, self.adapter, names)
            if measured and isinstance(self.adapter.module, Mask2Former):
                stack.enter_context(record_self_attention(self.adapter.module, facts))
            predictions = self.adapter.predict(batch, targets, attention=False)
        classes, masks = predictions.class_logits.float(), predictions.mask_logits.float()
        if changes.shift != (0, 0):
            move = undo_shift if changes.deblurred else shift_masks
            masks = move(masks, changes.shift)
        if changes.mask_bias:
            masks = masks + changes.mask_bias
        features = None
        if recording is not None and "query" in recording:
            features = torch.stack(recording.layers("query")).float()
        first = 0 if every_layer else len(classes) - 1
        finite = finite_queries(classes, masks)
        truths = [self._truth(image.sample.image_id, changes) for image in batch]
        images = [
            image_evidence(
                image.sample.image_id,
                classes[first:, index],
                masks[first:, index],
                finite[first:, index],
                self._mask_sizes(image.sizes, masks),
                truth,
                None if features is None else features[first:, index],
            )
            for index, (image, truth) in enumerate(zip(batch, truths, strict=True))
        ]
        if self.scorer.needs_masks:
            images = [
                replace(one, masks=KeptMasks.keep(masks[first:, index], image.sizes, truth))
                for index, (one, image, truth) in enumerate(zip(images, batch, truths, strict=True))
            ]
        if measured and recording is not None and "attention_mask" in recording:
            visible = recording.layers("attention_mask")
            facts.measure_attention(visible, masks, targets, images)
        return images, facts

    def _mask_sizes(self, sizes: ImageSizes, masks: Tensor) -> ImageSizes:
        """Return the sizes by which `instance_inference` resizes masks (..., h, w).

        With the rule "sigmoid", it crops them on the prediction grid.
        """
        if self.adapter.info.settings.inference != "sigmoid":
            return sizes
        grid = masks.shape[-2], masks.shape[-1]
        return ImageSizes(grid, sizes.valid_cells(grid), sizes.output)

    def _truth(self, image_id: int, changes: Changes) -> GroundTruth:
        truth = self.ground_truth.get(image_id)
        return replace(truth, masks=truth.masks.flip(-1)) if changes.flip else truth


def flip_sample(sample: Sample) -> Sample:
    """Flip image and GT left to right."""
    return replace(sample, image=sample.image.flip(-1), masks=sample.masks.flip(-1))


def _try_record(stack: ExitStack, adapter: ModelAdapter, names: Sequence[str]) -> Recording | None:
    """Record those of the names that the family has."""
    for chosen in (names, names[:1]):
        try:
            return stack.enter_context(record(adapter.module, only=list(chosen)))
        except RecordingError:
            continue
    return None


def shift_masks(masks: Tensor, shift: tuple[float, float]) -> Tensor:
    """Move (..., h, w) mask logits down and right by a number of cells, by bilinear sampling."""
    rows, columns = masks.shape[-2:]
    theta = torch.eye(2, 3, device=masks.device)
    theta[0, 2], theta[1, 2] = -2 * shift[1] / columns, -2 * shift[0] / rows
    flat = masks.flatten(0, -3)[:, None]
    grid = F.affine_grid(theta[None], [1, 1, rows, columns], align_corners=False)
    grid = grid.expand(len(flat), -1, -1, -1)
    moved = F.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    return moved.view_as(masks)


def undo_shift(masks: Tensor, shift: tuple[float, float]) -> Tensor:
    """Return what `shift_masks` moved by the opposite of `shift`, but for cells that left the grid.

    A shift by a part of a cell blurs. It is undone by solving the equations of its interpolation,
    which are stable for at most half a cell. Whole cells are moved back.
    """
    whole = tuple(math.copysign(math.ceil(abs(cells) - 0.5), cells) for cells in shift)
    down, right = (part - cells for part, cells in zip(shift, whole, strict=True))
    moved = torch.linalg.solve(_interpolation(masks.shape[-2], -down, masks.device), masks)
    columns = _interpolation(masks.shape[-1], -right, masks.device)
    moved = torch.linalg.solve(columns, moved.transpose(-1, -2)).transpose(-1, -2)
    return shift_masks(moved, (whole[0], whole[1]))


def _interpolation(cells: int, shift: float, device: torch.device) -> Tensor:
    """Return the (cells, cells) matrix of a shift of a column of cells."""
    unit = torch.eye(cells, device=device)[..., None]
    return shift_masks(unit, (shift, 0))[..., 0].T


def image_evidence(
    image_id: int,
    class_logits: Tensor,
    mask_logits: Tensor,
    finite: Tensor,
    sizes: ImageSizes,
    truth: GroundTruth,
    features: Tensor | None,
) -> ImageEvidence:
    """Measure the predictions of one image.

    Args:
        image_id: id of the image.
        class_logits: (S, N, K + 1).
        mask_logits: (S, N, h, w) over the padded image.
        finite: bool (S, N).
        sizes: sizes of the image.
        truth: its GT.
        features: (S, N, C).
    """
    finite = finite.to(mask_logits.device)
    classes = torch.where(finite[..., None], class_logits, 0)
    masks = torch.where(finite[..., None, None], mask_logits, -1.0)
    gt = truth.masks.to(masks.device)
    planes = pixel_centers(sizes.output, masks.device)
    measured = [_layer(layer, sizes, gt, planes, truth.crowd.to(gt.device)) for layer in masks]
    quality, iou, area, center = (torch.stack(x) for x in zip(*measured, strict=True))
    rows, columns = sizes.valid_cells((masks.shape[-2], masks.shape[-1]))

    def on_grid(layer: int) -> Tensor:
        return (masks[layer, :, :rows, :columns] > 0).flatten(1).float()

    overlap = torch.stack([pairwise_iou(one, one) for one in map(on_grid, range(len(masks)))])
    flat = gt.flatten(1).float()
    gt_center = (flat @ planes.T) / flat.sum(1, keepdim=True).clamp(min=1)
    own = torch.eye(overlap.shape[-1], dtype=torch.bool, device=masks.device)
    return ImageEvidence(
        image_id=image_id,
        class_logits=classes.cpu().numpy(),
        quality=quality.cpu().numpy(),
        iou=iou.cpu().numpy(),
        area=torch.where(finite, area, torch.nan).cpu().numpy(),
        center=center.cpu().numpy(),
        overlap=overlap.masked_fill(own, 0).amax(-1).cpu().numpy(),
        repeated=(overlap >= REPEATED_IOU).cpu().numpy(),
        moved=pairwise_iou(on_grid(max(len(masks) - 2, 0)), on_grid(-1)).cpu().numpy(),
        grid=(rows, columns),
        features=None if features is None else features.cpu().numpy(),
        gt_labels=truth.labels.numpy(),
        gt_crowd=truth.crowd.numpy(),
        gt_center=gt_center.cpu().numpy(),
        gt_area=truth.areas.numpy().astype(np.float64),
        pixels=truth.masks.shape[-2] * truth.masks.shape[-1],
        gt_overlap=pairwise_iou(flat, flat).cpu().numpy(),
        ignored=np.zeros(class_logits.shape[1], dtype=np.bool_),
    )


def _layer(
    logits: Tensor, sizes: ImageSizes, gt: Tensor, planes: Tensor, crowd: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return quality (N,), IoU (N, G), area (N,) and center (N, 2) of N masks."""
    flat = gt.flatten(1).float()
    gt_area, pixels = flat.sum(1), gt.shape[1] * gt.shape[2]
    parts = []
    queries = torch.arange(len(logits), device=logits.device)
    for _, chunk in resized_chunks(logits, queries, sizes):
        inside = (chunk > 0).flatten(1).float()
        area = inside.sum(1)
        quality = (chunk.sigmoid().flatten(1) * inside).sum(1) / (area + 1e-6)
        shared = inside @ flat.T
        union = torch.where(crowd, area[:, None], area[:, None] + gt_area - shared)
        iou = shared / union.clamp(min=1)
        center = (inside @ planes.T) / area[:, None]
        parts.append((quality, iou, area / max(pixels, 1), center))
    quality, iou, area, center = (torch.cat(x) for x in zip(*parts, strict=True))
    return quality, iou, area, center


def pixel_centers(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return (2, H * W) y and x of the pixel centres, 0..1."""
    y, x = (
        (torch.arange(length, device=device, dtype=torch.float32) + 0.5) / length for length in size
    )
    return torch.stack(torch.meshgrid(y, x, indexing="ij")).flatten(1)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the (A, B) IoUs of (A, cells) and (B, cells) masks of 0 and 1; 0 for empty masks."""
    shared = first @ second.T
    union = first.sum(1, keepdim=True) + second.sum(1) - shared
    return shared / union.clamp(min=1)
