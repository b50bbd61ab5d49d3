"""The official model in `mpdiag bench train`: it loads mpdiag's weights and trains."""

from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks.official_step import OfficialStep
from mpdiag.config import BackboneConfig, LossConfig, ModelConfig, TrainConfig
from mpdiag.data import Sample
from mpdiag.errors import ConfigError
from mpdiag.matching import Target


def build_recipe(**changes) -> TrainConfig:
    model = {
        "num_classes": 3,
        "backbone": BackboneConfig(
            name="resnet50", channels=(8, 16, 32, 64), stem_channels=16, norm="frozen"
        ),
        "hidden_dim": 32,
        "mask_dim": 16,
        "encoder_layers": 1,
        "decoder_layers": 4,
        "feedforward_dim": 32,
        "num_queries": 6,
        **changes,
    }
    return TrainConfig(model=ModelConfig(**model), loss=LossConfig(num_points=64))


def test_step_changes_the_weights(package: ModuleType, targets: list[Target]) -> None:
    folder = Path(package.__file__).parents[1]
    step = OfficialStep(folder, build_recipe(), torch.device("cpu"))
    assert step.name.startswith("official M")
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    samples = [
        Sample(n, "x", image, target["masks"], target["labels"], (64, 64))
        for n, target in enumerate(targets)
    ]
    before = {name: x.clone() for name, x in step.model.named_parameters()}
    step(samples, torch.autocast("cpu", enabled=False))
    changed = [not torch.equal(x, before[name]) for name, x in step.model.named_parameters()]
    assert sum(changed) > 0.9 * len(changed)


def test_unsupported_model(package: ModuleType) -> None:
    folder = Path(package.__file__).parents[1]
    with pytest.raises(ConfigError, match="encoder_feedforward_dim=1024"):
        OfficialStep(folder, build_recipe(encoder_feedforward_dim=64), torch.device("cpu"))
