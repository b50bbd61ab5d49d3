"""Evidence of a model that finds most objects, in which tests plant faults."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mpdiag.analysis import analyze
from mpdiag.analysis.build_adapter import build_adapter
from mpdiag.analysis.options import AnalysisOptions
from mpdiag.config import ModelConfig
from mpdiag.data import SegmentationDataset, generate_synthetic, load_dataset
from mpdiag.diagnosis.collect import Collector
from mpdiag.diagnosis.evidence import Evidence, ImageEvidence
from mpdiag.models import Mask2Former

from .module_checkpoint import as_checkpoint

LAYERS, QUERIES, CLASSES, OBJECTS = 3, 10, 3, 2


@pytest.fixture(scope="session")
def make_evidence() -> Callable[..., Evidence]:
    """Return `_make_evidence`."""
    return _make_evidence


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataset:
    root = tmp_path_factory.mktemp("data")
    generate_synthetic(root / "synthetic", train=1, val=2, size=64)
    return load_dataset("synthetic", root=root)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataset:
    root = tmp_path_factory.mktemp("data")
    generate_synthetic(root / "synthetic", train=1, val=4, size=64)
    return load_dataset("synthetic", root=root)


@pytest.fixture(scope="session")
def model(small_config: ModelConfig) -> Mask2Former:
    torch.manual_seed(0)
    config = small_config.model_copy(update={"num_classes": 7})
    return Mask2Former(config).eval()


@pytest.fixture(scope="session")
def run(
    model: Mask2Former, data: SegmentationDataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    analyze(as_checkpoint(model), data, path, evaluate_layers=True, save_masks="none")
    return path


@pytest.fixture
def collector(small_config: ModelConfig, small_data: SegmentationDataset) -> Collector:
    torch.manual_seed(0)
    model = Mask2Former(small_config.model_copy(update={"num_classes": 7})).eval()
    adapter = build_adapter(as_checkpoint(model), small_data, AnalysisOptions())
    return Collector(adapter, small_data, range(2), torch.device("cpu"))


def _make_evidence(num_images: int = 24, seed: int = 0) -> Evidence:
    """Make evidence in which query n finds GT n with a random IoU, and the others find nothing.

    Class logits are linear in the features, as those of a model.
    """
    generator = np.random.default_rng(seed)
    head = generator.normal(size=(16, CLASSES + 1))
    images = [_image(image_id, generator, head) for image_id in range(1, num_images + 1)]
    return Evidence(images, CLASSES)


def _image(image_id: int, generator: np.random.Generator, head: object) -> ImageEvidence:
    labels = generator.integers(0, CLASSES, OBJECTS)
    queries = generator.permutation(QUERIES)[:OBJECTS]
    wanted = np.full((QUERIES, CLASSES + 1), -2.0)
    wanted[:, -1] = 4
    wanted[queries, labels] = 5
    wanted[queries, -1] = 0
    features = wanted @ np.linalg.pinv(head)  # type: ignore[call-overload]
    features = features + generator.normal(size=features.shape) * 0.02
    normal = features - features.mean(-1, keepdims=True)
    normal = normal / normal.std(-1, keepdims=True)
    logits = normal @ head * np.linalg.norm(wanted[0]) / 4
    iou = np.zeros((LAYERS + 1, QUERIES, OBJECTS))
    quality = np.full((LAYERS + 1, QUERIES), 0.8)
    final = generator.uniform(0.6, 0.98, OBJECTS)
    for layer in range(LAYERS + 1):
        iou[layer, queries, range(OBJECTS)] = final * (0.94 + 0.02 * layer)
    quality[:, queries] = 0.9
    area = np.full((LAYERS + 1, QUERIES), 0.05)
    place = generator.uniform(0.2, 0.8, (QUERIES, 2))
    gt_center = place[queries]
    return ImageEvidence(
        image_id=image_id,
        class_logits=np.repeat(logits[None], LAYERS + 1, 0).astype(np.float32),
        quality=quality.astype(np.float32),
        iou=iou.astype(np.float32),
        area=area.astype(np.float32),
        center=np.repeat(place[None], LAYERS + 1, 0).astype(np.float32),
        overlap=np.zeros((LAYERS + 1, QUERIES), np.float32),
        repeated=np.repeat(np.eye(QUERIES, dtype=np.bool_)[None], LAYERS + 1, 0),
        moved=np.eye(QUERIES, dtype=np.float32) * 0.9,
        grid=(24, 24),
        features=np.repeat(normal[None], LAYERS + 1, 0).astype(np.float32),
        gt_labels=labels,
        gt_crowd=np.zeros(OBJECTS, np.bool_),
        gt_center=gt_center.astype(np.float32),
        gt_area=np.full(OBJECTS, 400.0),
        pixels=8000,
        gt_overlap=np.eye(OBJECTS, dtype=np.float32),
        ignored=np.zeros(QUERIES, np.bool_),
    )
