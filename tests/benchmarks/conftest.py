"""Fixtures of the benchmark tests. The tests check what is measured, never how fast it is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mpdiag.config import TrainConfig
from mpdiag.data import generate_synthetic
from trainers.recipe import load_recipe


@pytest.fixture
def small_recipe(tmp_path: Path) -> Callable[..., TrainConfig]:
    """Return a function that builds a small recipe with KEY=VALUE changes."""
    generate_synthetic(tmp_path / "synthetic", train=8, val=2, size=64)
    small = (
        "model.hidden_dim=32",
        "model.mask_dim=32",
        "model.encoder_layers=1",
        "model.decoder_layers=3",
        "model.num_queries=12",
        "model.backbone={name: resnet18, channels: [8, 8, 16, 16], stem_channels: 8, norm: batch}",
        "init=null",
        "data.batch_size=2",
        f"data.root={tmp_path}",
        "pilot.num_queries=12",
        "layer_metrics_every=null",
    )
    return lambda *changes: load_recipe("synthetic-tiny", [*small, *changes])
