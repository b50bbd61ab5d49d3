"""Recipes: a YAML file for each run of the paper; `base` names others to build on.

A configuration of detectron2's is one, too, once it is translated.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from mpdiag.checkpoints.detectron2_yaml import is_detectron2, lay_over, read_detectron2_config
from mpdiag.config import Recipe, TrainConfig, Translated, merge, overrides, parse, read_yaml
from mpdiag.errors import ConfigError
from trainers.translation import split_words, translate

RECIPES = Path(__file__).parent / "recipes"

_DESCRIPTION = ("about", "paper")  # of the file itself: not passed on to what builds on it


def recipe_names() -> list[str]:
    """Names of the runs that ship with the package; files that begin with _ are parts of them."""
    return sorted(path.stem for path in RECIPES.glob("[!_]*.yaml"))


def recipes() -> list[Recipe]:
    """All of them."""
    return [read_recipe(name) for name in recipe_names()]


def load_recipe(name: str | Path, changes: Sequence[str] = ()) -> TrainConfig:
    """The settings of `read_recipe`."""
    return read_recipe(name, changes).config


def read_recipe(name: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """A packaged recipe or a YAML file, with KEY=VALUE changes laid over its settings.

    A detectron2 YAML is translated, and its own KEY VALUE pairs may be among the changes.

    Raises:
        ConfigError: no such recipe, an unknown key, or a value that does not fit.
    """
    source = str(name)
    path = _find(source)
    if path.parent != RECIPES and path.is_file() and is_detectron2(path):
        return _translated(path, changes)
    values = read_yaml(path)
    about = {key: values[key] for key in _DESCRIPTION if key in values}
    settings = merge(_settings(source, values, ()), overrides(changes))
    config = parse(TrainConfig, settings, source)
    return parse(Recipe, about | {"name": source, "config": config}, source)


def recipe_text(recipe: Recipe) -> str:
    """A recipe as a YAML file that can be trained in its place: what it sets, and all its notes."""
    lines = [recipe.name]
    if recipe.translated:
        lines += recipe.translated.notes
        lines += [f"{key}: unknown, left aside" for key in recipe.translated.unknown]
    settings = recipe.config.model_dump(mode="json", exclude_unset=True)
    text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100)
    return "".join(f"# {line}\n" for line in lines) + text


def _translated(path: Path, changes: Sequence[str]) -> Recipe:
    """detectron2's settings in our words, under what the command line says in either's."""
    pairs, ours = split_words(changes)
    found = translate(lay_over(read_detectron2_config(path), pairs), str(path))
    config = parse(TrainConfig, merge(found.settings, overrides(ours)), str(path))
    told = Translated(notes=found.notes, unknown=found.unknown)
    return Recipe(name=str(path), config=config, translated=told)


def _settings(name: str, values: dict[str, Any], seen: tuple[str, ...]) -> dict[str, Any]:
    """What a file says, laid over its bases, and these over each other in their order."""
    if name in seen:
        raise ConfigError(f"{name}: recipes build on each other in a circle: {' > '.join(seen)}")
    bases = values.get("base") or []
    if isinstance(bases, str):
        bases = [bases]
    if not (isinstance(bases, list) and all(isinstance(base, str) for base in bases)):
        raise ConfigError(f"{name}: base = {bases!r:.60}: give a recipe's name, or a list of names")
    settings: dict[str, Any] = {}
    for base in bases:
        below = _settings(base, read_yaml(_find(base)), (*seen, name))
        settings = merge(settings, below)
    own = {key: value for key, value in values.items() if key not in (*_DESCRIPTION, "base")}
    return merge(settings, own)


def _find(name: str) -> Path:
    packaged = RECIPES / f"{name}.yaml"
    if packaged.is_file():
        return packaged
    if Path(name).suffix in {".yaml", ".yml"}:
        return Path(name)
    close = get_close_matches(name, recipe_names(), n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(
        f"{name}: no such recipe; {hint}give a YAML file or a name that mpdiag train --list shows"
    )
