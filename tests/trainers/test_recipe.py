"""Recipes: inheritance, names, and the schedule and groups that follow from them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mpdiag.config import OptimizerConfig, ScheduleConfig
from mpdiag.errors import ConfigError
from trainers.optimizer import build_optimizer, rate_factor
from trainers.recipe import load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_are_valid(name: str) -> None:
    load_recipe(name)


def test_a_recipe_builds_on_its_base(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("base: synthetic-tiny\nschedule: {iterations: 7}\n")
    config = load_recipe(own, ["seed=3"])
    assert (config.schedule.iterations, config.schedule.warmup, config.seed) == (7, 100, 3)
    assert config.model.hidden_dim == 64


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no-such: no such recipe; .*synthetic-tiny"):
        load_recipe("no-such")
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(f"base: {two}\n")
    two.write_text(f"base: {one}\n")
    with pytest.raises(ConfigError, match="circle"):
        load_recipe(one)
    with pytest.raises(ConfigError, match=r"unknown key 'schedule\.iteration'"):
        load_recipe("synthetic-tiny", ["schedule.iteration=3"])


def test_rate_warms_up_and_steps_down() -> None:
    schedule = ScheduleConfig(iterations=100, warmup=10, drops=(0.8, 0.9), factors=(0.3, 0.5))
    found = [rate_factor(step, schedule) for step in (0, 4, 9, 10, 79, 80, 89, 90, 99)]
    assert found == pytest.approx([0.1, 0.5, 1, 1, 1, 0.3, 0.3, 0.15, 0.15])


def test_groups_of_the_optimizer() -> None:
    module = nn.ModuleDict(
        {
            "backbone": nn.ModuleDict({"conv": nn.Conv2d(1, 1, 1), "norm": nn.BatchNorm2d(1)}),
            "linear": nn.Linear(1, 1),
            "embed": nn.Embedding(2, 1),
            "norm": nn.LayerNorm(1),
        }
    )
    module["backbone"].register_parameter(
        "relative_position_bias_table", nn.Parameter(torch.zeros(2))
    )
    config = OptimizerConfig(learning_rate=1.0, weight_decay=0.5, backbone_multiplier=0.1)
    optimizer = build_optimizer(module, config)
    where = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    found = {name: where[id(parameter)] for name, parameter in module.named_parameters()}
    assert found == {
        "backbone.relative_position_bias_table": (0.1, 0.0),
        "backbone.conv.weight": (0.1, 0.5),
        "backbone.conv.bias": (0.1, 0.5),
        "backbone.norm.weight": (0.1, 0.0),
        "backbone.norm.bias": (0.1, 0.0),
        "linear.weight": (1.0, 0.5),
        "linear.bias": (1.0, 0.5),
        "embed.weight": (1.0, 0.0),
        "norm.weight": (1.0, 0.0),
        "norm.bias": (1.0, 0.0),
    }
    assert isinstance(optimizer, torch.optim.AdamW)
