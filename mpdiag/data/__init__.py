"""Data: readers, the synthetic data set, transforms and training batches."""

from mpdiag.data.coco import CocoDataset
from mpdiag.data.loader import TrainingBatches
from mpdiag.data.registry import KNOWN_DATASETS, load_dataset
from mpdiag.data.sample import ClassInfo, Sample, SegmentationDataset
from mpdiag.data.synthetic import generate
from mpdiag.data.targets import padded_targets
from mpdiag.data.transforms import (
    Compose,
    HorizontalFlip,
    ResizeShortestEdge,
    Transform,
    drop_empty,
)

__all__ = [
    "KNOWN_DATASETS",
    "ClassInfo",
    "CocoDataset",
    "Compose",
    "HorizontalFlip",
    "ResizeShortestEdge",
    "Sample",
    "SegmentationDataset",
    "TrainingBatches",
    "Transform",
    "drop_empty",
    "generate",
    "load_dataset",
    "padded_targets",
]
