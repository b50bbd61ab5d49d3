"""Trainings that mpdiag 0.1 wrote open and resume; its keys are errors in recipes."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from mpdiag.checkpoints import load_checkpoint
from mpdiag.config import parse, read_yaml
from mpdiag.data import generate_synthetic
from mpdiag.errors import ConfigError
from mpdiag.legacy_names import CONFIG_KEYS, upgrade_config, upgrade_method_state
from trainers.loop import train
from trainers.methods import FullTrainConfig
from trainers.recipe import load_recipe

TRAINING = Path(__file__).parents[1] / "fixtures" / "written_by_0_1" / "training"


def test_checkpoint_has_its_recipe_under_the_current_names() -> None:
    recipe = load_checkpoint(TRAINING).recipe
    old = read_yaml(TRAINING / "config.yaml")
    assert recipe is not None and recipe.method == old["method"]
    assert recipe.model.num_heads == old["model"]["heads"]
    assert recipe.model.backbone.drop_path_rate == old["model"]["backbone"]["drop_path"]
    assert recipe.pilot.num_groups == old["pilot"]["groups"]
    assert recipe.pilot.variant == "official" and old["pilot"]["follow"] == "release"
    assert recipe.schedule.policy == "multistep" and old["schedule"]["decline"] == "steps"
    assert recipe.schedule.milestones == tuple(old["schedule"]["drops"])
    assert recipe.gradient_accumulation_steps == old["accumulate"]
    assert recipe.loss.num_points == old["loss"]["points"]


def test_config_has_every_value_under_its_current_name() -> None:
    old = read_yaml(TRAINING / "config.yaml")
    config = parse(FullTrainConfig, upgrade_config(old), "config.yaml").model_dump(mode="json")
    assert config["auxiliary_loss"]["weight"] == old["loss"]["consistency_weight"]
    assert config["data"]["augment"]["single_category_max_area"] == 1.0
    assert upgrade_config(config) == config


def test_training_resumes(tmp_path: Path) -> None:
    output = tmp_path / "run"
    shutil.copytree(TRAINING, output)
    generate_synthetic(tmp_path / "synthetic", train=32, val=6, size=64)
    values = upgrade_config(read_yaml(output / "config.yaml"))
    values["data"]["root"] = str(tmp_path)
    lines = (output / "metrics.json").read_text().splitlines()
    final = train(
        parse(FullTrainConfig, values, "config"), output, resume=True, console=Console(quiet=True)
    )
    assert (output / "metrics.json").read_text().splitlines()[: len(lines)] == lines
    assert torch.load(final, weights_only=True)["iteration"] == values["schedule"]["iterations"]
    assert yaml.safe_load((output / "config.yaml").read_text()).keys() >= {"auxiliary_loss"}


def test_parameters_of_methods_are_renamed() -> None:
    old = ["piloting.feed.layers.0.weight", "heads.3.bias"]
    new = ["methods.piloted.query_input.layers.0.weight", "methods.per-pixel.heads.3.bias"]
    assert list(upgrade_method_state(dict.fromkeys(old))) == new
    assert list(upgrade_method_state(dict.fromkeys(new))) == new


@pytest.mark.parametrize("old, new", CONFIG_KEYS.items())
def test_old_keys_are_errors_that_name_the_new_key(tmp_path: Path, old: str, new: str) -> None:
    message = f"{old} is now {new}; rename it"
    with pytest.raises(ConfigError, match=f"command line: {message}"):
        load_recipe("synthetic-tiny", [f"{old}=1"])
    *sections, key = old.split(".")
    values: dict[str, object] = {key: 1}
    for section in reversed(sections):
        values = {section: values}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"base": "synthetic-tiny", **values}))
    with pytest.raises(ConfigError, match=f"recipe.yaml: {message}"):
        load_recipe(recipe)


def test_old_description_of_a_recipe_is_an_error(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("base: synthetic-tiny\nabout: text\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml: about is now description"):
        load_recipe(recipe)
