"""Semantic ground truth from panoptic annotations: one mask per class."""

import torch

from mpdiag.data.coco_panoptic import CocoPanoptic
from mpdiag.data.sample import GroundTruth


class SemanticFromPanoptic:
    """Annotations (see `Annotations`) that merge all panoptic segments of a class.

    Crowds are part of the mask of their class; unlabelled pixels are in no mask.
    """

    def __init__(self, panoptic: CocoPanoptic) -> None:
        self.path = panoptic.path
        self.images = panoptic.images
        self.classes = panoptic.classes
        self._panoptic = panoptic

    def num_objects(self, index: int) -> int:
        return self._panoptic.num_classes(index)

    def mask_shape(self, index: int) -> tuple[int, int, int]:
        return self._panoptic.mask_shape(index)

    def read(self, index: int) -> GroundTruth:
        """Return one segment per class of an image."""
        segments = self._panoptic.read(index)
        labels = segments.labels.unique()
        merged = [segments.masks[segments.labels == label].any(0) for label in labels]
        masks = torch.stack(merged) if merged else segments.masks
        return GroundTruth(
            masks=masks,
            labels=labels,
            crowd=torch.zeros(len(labels), dtype=torch.bool),
            areas=masks.sum((1, 2)).double(),
        )
