"""Recipes: inheritance, names and mistakes."""

from pathlib import Path

import pytest

from mpdiag.errors import ConfigError
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
