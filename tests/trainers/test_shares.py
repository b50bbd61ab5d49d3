"""A batch gives the same step in one part, in two parts, and over two processes."""

from typing import Any

import pytest
import torch

from mpdiag.config import TrainConfig

from ..processes import torchrun
from .take_steps import save_steps, take_steps

# Batch norm would have other statistics. Everything random is on.
SETTINGS = (
    "model.num_classes=7",
    "model.label_embedding=true",
    "loss.num_points=64",
    "schedule.warmup_iterations=1",
    "pilot.num_queries=9",
    "model.backbone={name: resnet18, channels: [8, 8, 16, 16], stem_channels: 8, norm: frozen}",
)


def assert_same_step(found: dict[str, Any], expected: dict[str, Any]) -> None:
    first, second = zip(found["losses"], expected["losses"], strict=True)
    assert first[0] == pytest.approx(first[1], rel=1e-5, abs=1e-6)
    # AdamW's first step turns rounding of gradients near zero into steps of full size.
    assert second[0] == pytest.approx(second[1], rel=1e-2)
    assert found["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        difference = (found["gradients"][name] - gradient).norm()
        assert difference <= 1e-4 * gradient.norm() + 1e-7, name


@pytest.fixture(scope="module")
def settings(build_recipe, combined_methods: str) -> dict[str, TrainConfig]:
    methods = ("piloted+auxiliary-loss", combined_methods, "baseline")
    return {method: build_recipe(*SETTINGS, f"method={method}") for method in methods}


@pytest.fixture(scope="module")
def of_two_processes(
    settings: dict[str, TrainConfig], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Results of each method by two gloo processes."""
    folder = tmp_path_factory.mktemp("ranks")
    recipes = {method: config.model_dump_json() for method, config in settings.items()}
    torchrun(folder / "streams", 2, save_steps, recipes, folder / "out.pt")
    return torch.load(folder / "out.pt", weights_only=True)


@pytest.mark.slow
def test_two_processes_and_two_parts_equal_one(
    settings: dict[str, TrainConfig], of_two_processes: dict[str, Any], combined_methods: str
) -> None:
    for method in ("piloted+auxiliary-loss", combined_methods):
        alone = take_steps(settings[method], 2)
        assert_same_step(of_two_processes[method], alone)
        parts = settings[method].model_copy(update={"gradient_accumulation_steps": 2})
        assert_same_step(take_steps(parts, 2), alone)


def test_baseline_with_a_label_embedding_trains_in_two_processes(
    settings: dict[str, TrainConfig], of_two_processes: dict[str, Any]
) -> None:
    """The baseline does not use the embedding; DDP fails in step 2 if it waits for its gradient."""
    assert settings["baseline"].model.label_embedding
    alone = take_steps(settings["baseline"], 2)
    assert_same_step(of_two_processes["baseline"], alone)
    assert not any("label_embed" in name for name in alone["gradients"])
