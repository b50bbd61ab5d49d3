"""Recipes: a YAML file for each run of the paper; `base` names others to build on."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mpdiag.config import Recipe, TrainConfig, merge, overrides, parse, read_yaml
from mpdiag.errors import ConfigError

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

    Raises:
        ConfigError: no such recipe, an unknown key, or a value that does not fit.
    """
    source = str(name)
    values = read_yaml(_find(source))
    about = {key: values[key] for key in _DESCRIPTION if key in values}
    settings = merge(_settings(source, values, ()), overrides(changes))
    config = parse(TrainConfig, settings, source)
    return parse(Recipe, about | {"name": source, "config": config}, source)


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
