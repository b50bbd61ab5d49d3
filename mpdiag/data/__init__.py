"""Data sets and annotations, synthetic data, transforms and training batches."""

from mpdiag.data.augmentation import ColorJitter, ScaleJitter, build_augmentation
from mpdiag.data.coco import coco_dataset
from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.detectron2_names import DETECTRON2_NAMES
from mpdiag.data.loader import TrainingBatches, read_ahead
from mpdiag.data.registry import KNOWN_DATASETS, load_dataset, load_held_out
from mpdiag.data.sample import ClassInfo, GroundTruth, Sample
from mpdiag.data.synthetic import generate_synthetic
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
    "DETECTRON2_NAMES",
    "KNOWN_DATASETS",
    "ClassInfo",
    "ColorJitter",
    "Compose",
    "GroundTruth",
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
    "build_augmentation",
    "coco_dataset",
    "drop_empty",
    "generate_synthetic",
    "load_dataset",
    "load_held_out",
    "padded_targets",
    "read_ahead",
]
