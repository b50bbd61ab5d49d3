"""Recipes: inheritance, names and errors."""

from pathlib import Path

import pytest

from mpdiag.errors import ConfigError
from trainers.recipe import MAX_BASES, load_recipe, read_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_are_valid(name: str) -> None:
    assert read_recipe(name).description.endswith(".")


def test_bases_are_not_listed() -> None:
    assert not any(name.startswith("_") for name in recipe_names())
    assert load_recipe("_coco", ["schedule.iterations=3"]).data.dataset == "coco"


def test_a_recipe_builds_on_its_base(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("base: synthetic-tiny\nschedule: {iterations: 7}\n")
    config = load_recipe(own, ["seed=3"])
    assert (config.schedule.iterations, config.schedule.warmup_iterations, config.seed) == (
        7,
        100,
        3,
    )
    assert config.model.hidden_dim == 64


def test_a_base_is_relative_to_the_recipe_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "common.yaml").write_text("base: more.yaml\nseed: 5\n")
    (tmp_path / "bases" / "more.yaml").write_text("base: synthetic-tiny\nlog_every: 3\n")
    own = tmp_path / "own.yaml"
    own.write_text("base: bases/common.yaml\n")
    config = load_recipe(own)
    assert (config.seed, config.log_every, config.data.dataset) == (5, 3, "synthetic")


def test_later_bases_override_earlier_ones(tmp_path: Path) -> None:
    first, second, own = (tmp_path / f"{name}.yaml" for name in ("first", "second", "own"))
    first.write_text("description: one\nseed: 1\nmodel: {num_queries: 5, num_heads: 4}\n")
    second.write_text(
        "description: two\nseed: 2\nmodel: {num_queries: 6}\npaper: [{table: x, results: [y]}]"
    )
    own.write_text(f"base: [{first}, {second}]\nlog_every: 9\n")
    recipe = read_recipe(own, ["model.mask_dim=7"])
    config = recipe.config
    assert (config.seed, config.log_every) == (2, 9)
    assert (config.model.num_queries, config.model.num_heads, config.model.mask_dim) == (6, 4, 7)
    assert recipe.description == "" and recipe.paper == ()
    assert read_recipe(second).paper[0].results == ("y",)


def test_bases_that_multiply_are_read_once_and_limited(tmp_path: Path) -> None:
    (tmp_path / "r4.yaml").write_text("seed: 4\n")
    for number in range(4):
        bases = ", ".join([f"r{number + 1}.yaml"] * 100)
        (tmp_path / f"r{number}.yaml").write_text(f"base: [{bases}]\n")
    assert load_recipe(tmp_path / "r0.yaml").seed == 4
    for number in range(MAX_BASES + 2):
        (tmp_path / f"r{number}.yaml").write_text(f"base: r{number + 1}.yaml\n")
    (tmp_path / f"r{MAX_BASES + 2}.yaml").write_text("seed: 4\n")
    with pytest.raises(ConfigError, match=f"builds on more than {MAX_BASES} recipes"):
        load_recipe(tmp_path / "r0.yaml")


def test_a_file_does_not_import_modules(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    for key in ("dataset", "val_dataset"):
        own.write_text(f"base: synthetic-tiny\ndata: {{{key}: 'evil:x'}}\n")
        with pytest.raises(ConfigError, match=f"data.{key} = 'evil:x' imports a module; give data"):
            load_recipe(own)
        assert getattr(load_recipe(own, [f"data.{key}=evil:x"]).data, key) == "evil:x"
    for name in (tmp_path / "10:00" / "train.json", tmp_path / "11:00"):  # no modules
        (tmp_path / "11:00").mkdir(exist_ok=True)
        own.write_text(f"base: synthetic-tiny\ndata: {{dataset: '{name}'}}\n")
        assert load_recipe(own).data.dataset == str(name)


def test_errors_name_the_cause(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no-such: no such recipe; give a YAML .*train --list"):
        load_recipe("no-such")
    with pytest.raises(ConfigError, match="did you mean synthetic-tiny\\? "):
        load_recipe("synthetic-tinny")
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(f"base: {two}\n")
    two.write_text(f"base: [{one}]\n")
    with pytest.raises(ConfigError, match="circle"):
        load_recipe(one)
    (tmp_path / "link.yaml").symlink_to("link.yaml")
    for base in ("link.yaml", r"a\0.yaml"):
        one.write_text(f'base: "{base}"\n')
        with pytest.raises(ConfigError, match=r"link\.yaml|no such recipe; correct the name"):
            load_recipe(one)
    with pytest.raises(ConfigError, match=r"unknown key 'schedule\.iteration'"):
        load_recipe("synthetic-tiny", ["schedule.iteration=3"])
    one.write_text("base: {seed: 3}\n")
    with pytest.raises(ConfigError, match=r"one\.yaml: base = \{'seed': 3\}: give a recipe's name"):
        load_recipe(one)
    one.write_text("paper: [{table: x, results: [y], rows: {}}]\n")
    with pytest.raises(ConfigError, match=r"one\.yaml: unknown key 'paper\.0\.rows'"):
        load_recipe(one)
