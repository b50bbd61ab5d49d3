"""Recipes: one YAML file for each run of the paper; `base` names another to build on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpdiag.config import TrainConfig, merge, overrides, parse, read_yaml
from mpdiag.errors import ConfigError

RECIPES = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str | Path, changes: Sequence[str] = ()) -> TrainConfig:
    """Settings of a packaged recipe or a YAML file, with KEY=VALUE changes laid over them.

    Raises:
        ConfigError: no such recipe, an unknown key, or a value that does not fit.
    """
    values = merge(_resolve(str(name), ()), overrides(changes))
    return parse(TrainConfig, values, str(name))


def _resolve(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if name in seen:
        raise ConfigError(f"{name}: recipes build on each other in a circle: {' > '.join(seen)}")
    values = read_yaml(_find(name))
    base = values.pop("base", None)
    values.pop("about", None)
    return values if base is None else merge(_resolve(str(base), (*seen, name)), values)


def _find(name: str) -> Path:
    packaged = RECIPES / f"{name}.yaml"
    if packaged.is_file():
        return packaged
    if Path(name).suffix in {".yaml", ".yml"}:
        return Path(name)
    known = ", ".join(recipe_names())
    raise ConfigError(f"{name}: no such recipe; give a YAML file or one of {known}")
