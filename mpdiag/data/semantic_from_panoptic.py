"""Semantic ground truth of panoptic annotations: the segments of a class as one mask."""

import torch

from mpdiag.data.coco_panoptic import CocoPanoptic
from mpdiag.data.sample import GroundTruth


class SemanticFromPanoptic:
    """The annotation source that gives of another's segments one mask a class.

    Crowds have a class, so they are part of its mask; unlabelled pixels are in none.
    """

    def __init__(self, panoptic: CocoPanoptic) -> None:
        self.path = panoptic.path
        self.images = panoptic.images
        self.classes = panoptic.classes
        self._panoptic = panoptic

    def num_objects(self, index: int) -> int:
        return self._panoptic.num_classes(index)

    def read(self, index: int) -> GroundTruth:
        """One segment for each class of an image; see Annotations."""
        truth = self._panoptic.read(index)
        labels = truth.labels.unique()
        merged = [truth.masks[truth.labels == label].any(0) for label in labels]
        masks = torch.stack(merged) if merged else truth.masks
        return GroundTruth(
            masks=masks,
            labels=labels,
            crowd=torch.zeros(len(labels), dtype=torch.bool),
            areas=masks.sum((1, 2)).double(),
        )
