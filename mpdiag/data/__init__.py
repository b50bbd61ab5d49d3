"""Data: readers, the synthetic data set, transforms and training batches."""

from mpdiag.data.augmentation import ColorJitter, ScaleJitter, augmentation
from mpdiag.data.coco import CocoDataset
from mpdiag.data.loader import TrainingBatches
from mpdiag.data.registry import KNOWN_DATASETS, load_dataset
from mpdiag.data.sample import ClassInfo, Sample, SegmentationDataset
from mpdiag.data.synthetic import generate
from mpdiag.data.targets import padded_targets
from mpdiag.data.transforms import (
    Compose,
    HorizontalFlip,
    OneOf,
    Pad,
    RandomCrop,
    ResizeShortestEdge,
    Transform,
    drop_empty,
)

__all__ = [
    "KNOWN_DATASETS",
    "ClassInfo",
    "CocoDataset",
    "ColorJitter",
    "Compose",
    "HorizontalFlip",
    "OneOf",
    "Pad",
    "RandomCrop",
    "ResizeShortestEdge",
    "Sample",
    "ScaleJitter",
    "SegmentationDataset",
    "TrainingBatches",
    "Transform",
    "augmentation",
    "drop_empty",
    "generate",
    "load_dataset",
    "padded_targets",
]
