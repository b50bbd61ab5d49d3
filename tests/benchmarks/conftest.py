"""Fixtures of the benchmark tests. The tests check what is measured, never how fast it is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mpdiag.config import TrainConfig
from mpdiag.data import generate_synthetic
from trainers.recipe import load_recipe

from ..small_recipe import SMALL


@pytest.fixture
def small_recipe(tmp_path: Path) -> Callable[..., TrainConfig]:
    """Return a function that builds a small recipe with KEY=VALUE changes."""
    generate_synthetic(tmp_path / "synthetic", train=8, val=2, size=64)
    settings = (*SMALL, "data.batch_size=2", f"data.root={tmp_path}", "layer_metrics_every=null")
    return lambda *changes: load_recipe("synthetic-tiny", [*settings, *changes])
