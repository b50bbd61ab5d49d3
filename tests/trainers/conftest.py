"""A recipe that trains in seconds, and all methods at once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mpdiag.config import TrainConfig
from mpdiag.data import generate_synthetic
from trainers.methods import METHODS
from trainers.recipe import load_recipe

from ..small_recipe import SMALL

STEPS = (
    "data.batch_size=4",
    "schedule.warmup_iterations=2",
    "log_every=1",
    "evaluate_every=null",
    "layer_metrics_every=null",
)


@pytest.fixture(scope="session")
def combined_methods() -> str:
    """All methods that combine with others."""
    return "+".join(name for name, method in METHODS.items() if not method.stands_alone)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    generate_synthetic(root / "synthetic", train=24, val=6, size=64)
    return root


@pytest.fixture(scope="session")
def build_recipe(data_root: Path) -> Callable[..., TrainConfig]:
    """Return a function that returns the small recipe with KEY=VALUE overrides."""

    def build(*changes: str) -> TrainConfig:
        return load_recipe("synthetic-tiny", [*SMALL, *STEPS, f"data.root={data_root}", *changes])

    return build


@pytest.fixture
def small_recipe(build_recipe: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    return build_recipe
