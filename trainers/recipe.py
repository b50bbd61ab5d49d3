"""Recipes: YAML files of training configurations. `base` names recipes to build on.

detectron2 configurations are translated to recipes.
"""

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from mpdiag.checkpoints.detectron2_yaml import (
    is_detectron2_config,
    override,
    read_detectron2_config,
)
from mpdiag.config import (
    Recipe,
    TrainConfig,
    TranslationNotes,
    merge,
    parse,
    parse_overrides,
    read_yaml,
)
from mpdiag.data.registry import imports_module
from mpdiag.errors import ConfigError
from mpdiag.legacy_names import reject_old_keys
from trainers.detectron2_recipes import split_arguments, translate
from trainers.methods import FullTrainConfig

RECIPES = Path(__file__).parent / "recipes"

MAX_BASES = 50
_OWN_KEYS = ("description", "paper")  # not inherited from a base


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes; files that begin with _ are only bases."""
    return sorted(path.stem for path in RECIPES.glob("[!_]*.yaml"))


def recipes() -> list[Recipe]:
    """Return all packaged recipes."""
    return [read_recipe(name) for name in recipe_names()]


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Return the configuration of `read_recipe`."""
    return read_recipe(name, overrides).config


def read_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a packaged recipe or a YAML file, and apply KEY=VALUE overrides.

    A detectron2 YAML is translated; its overrides may also be KEY VALUE pairs of detectron2.

    Raises:
        ConfigError: no such recipe, an unknown key, or an invalid value.
    """
    source = str(name)
    path = _find(source)
    if path.parent != RECIPES and path.is_file() and is_detectron2_config(path):
        return _translated(path, overrides)
    values = read_yaml(path)
    settings = merge(_settings(path, values, (), {}), _parse_overrides(overrides))
    config = parse(FullTrainConfig, settings, source)
    _refuse_imports(config, overrides, source)
    own = {key: values[key] for key in _OWN_KEYS if key in values}
    return parse(Recipe, own | {"name": source, "config": config}, source)


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as an equivalent YAML file: the values that it sets, and its notes."""
    lines = [recipe.name]
    if recipe.translation:
        lines += recipe.translation.notes
        lines += [f"{key}: unknown, ignored" for key in recipe.translation.unknown]
    settings = recipe.config.model_dump(mode="json", exclude_unset=True)
    text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100)
    return "".join(f"# {line}\n" for line in lines) + text


def _translated(path: Path, overrides: Sequence[str]) -> Recipe:
    pairs, settings = split_arguments(overrides)
    found = translate(override(read_detectron2_config(path), pairs), str(path))
    config = parse(FullTrainConfig, merge(found.settings, _parse_overrides(settings)), str(path))
    _refuse_imports(config, overrides, str(path))
    notes = TranslationNotes(notes=found.notes, unknown=found.unknown)
    return Recipe(name=str(path), config=config, translation=notes)


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    settings = parse_overrides(overrides)
    reject_old_keys(settings, "command line")
    return settings


def _refuse_imports(config: TrainConfig, overrides: Sequence[str], source: str) -> None:
    """Refuse data sets MODULE:NAME of a file, which import a module.

    Raises:
        ConfigError: the file names one, and no override does.
    """
    keys = {"dataset": config.data.training, "val_dataset": config.data.held_out}
    for key, (name, root, *_) in keys.items():
        if imports_module(name, root) and not any(name in word for word in overrides):
            raise ConfigError(
                f"{source}: data.{key} = {name!r:.200} imports a module; give data.{key}={name} "
                "on the command line if you trust the module"
            )


def _settings(
    path: Path, values: dict[str, Any], seen: tuple[Path, ...], known: dict[Path, dict[str, Any]]
) -> dict[str, Any]:
    """Return the settings of a file, merged over those of its bases in their order.

    `known` keeps the settings of each file, so that it is merged once however often it is named.
    """
    name = path.stem if path.parent == RECIPES else str(path)
    reject_old_keys(values, name)
    own_path = _resolve(path)
    if own_path in seen:
        circle = " > ".join(map(str, seen))
        raise ConfigError(f"{name}: recipes build on each other in a circle: {circle}")
    if len(seen) > MAX_BASES or len(known) > MAX_BASES:
        raise ConfigError(f"{name}: builds on more than {MAX_BASES} recipes; use fewer")
    bases = values.get("base") or []
    if isinstance(bases, str):
        bases = [bases]
    if not (isinstance(bases, list) and all(isinstance(base, str) for base in bases)):
        raise ConfigError(f"{name}: base = {bases!r:.60}: give a recipe's name, or a list of names")
    settings: dict[str, Any] = {}
    for base in bases:
        found = _find(base, path.parent)
        resolved = _resolve(found)
        if resolved not in known:
            known[resolved] = _settings(found, read_yaml(found), (*seen, own_path), known)
        settings = merge(settings, known[resolved])
    own = {key: value for key, value in values.items() if key not in (*_OWN_KEYS, "base")}
    return merge(settings, own)


def _resolve(path: Path) -> Path:
    """Return the path without links; unlike `Path.resolve`, a loop of links is no error."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a null character
        raise ConfigError(f"{str(path)!r:.200}: no such recipe; correct the name") from None


def _find(name: str, folder: Path = Path()) -> Path:
    """Return the file of a packaged recipe, or a YAML file relative to `folder`."""
    packaged = RECIPES / f"{name}.yaml"
    if packaged.is_file():
        return packaged
    if Path(name).suffix in {".yaml", ".yml"}:
        return folder / name
    close = get_close_matches(name, recipe_names(), n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(
        f"{name}: no such recipe; {hint}give a YAML file or a name that mpdiag train --list shows"
    )
