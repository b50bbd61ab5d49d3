"""A small model, its checkpoint, and images."""

from pathlib import Path

import pytest
import torch

from mpdiag.checkpoints import LoadedCheckpoint, load_checkpoint, save_checkpoint
from mpdiag.config import DataConfig, ModelConfig, TrainConfig
from mpdiag.data import SegmentationDataset, generate_synthetic, load_dataset
from mpdiag.models import Mask2Former


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    generate_synthetic(root / "synthetic", train=1, val=9, size=64)
    return root


@pytest.fixture(scope="module")
def dataset(root: Path) -> SegmentationDataset:
    return load_dataset("synthetic", root=root)


@pytest.fixture(scope="module")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory,
    small_config: ModelConfig,
    dataset: SegmentationDataset,
) -> Path:
    torch.manual_seed(0)
    config = small_config.model_copy(
        update={"num_classes": len(dataset.classes), "num_queries": 12}
    )
    model = Mask2Former(config)
    with torch.no_grad():  # masks of an untrained model are nearly empty and equal
        model.decoder.query_feat.weight.mul_(3)
        model.pixel_decoder.mask_features.weight.mul_(8)
    path = tmp_path_factory.mktemp("checkpoint") / "model.pth"
    save_checkpoint(path, model)
    return path


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> LoadedCheckpoint:
    found = load_checkpoint(checkpoint)
    # Without a recipe, images would be resized to 800 pixels.
    found.recipe = TrainConfig(model=found.model.config, data=DataConfig())
    return found
