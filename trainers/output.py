"""The output directory of a training: whose it is, and whether a run may write there."""

from pathlib import Path
from typing import Any

import yaml

from mpdiag.config import TrainConfig, parse, read_yaml
from mpdiag.errors import ConfigError, RunError
from mpdiag.store.files import replace_file

LAST, BEST, FINAL, SETTINGS = "last.pth", "model_best.pth", "model_final.pth", "config.yaml"

# What may change when a run goes on: nothing of it changes a number.
FREE = ("data.root", "data.workers", "log_every", "checkpoint_every", "wandb")


def check_free(output: Path, config: TrainConfig, *, resume: bool) -> None:
    """Refuse a directory that holds anything but this run, unfinished and to be resumed.

    Raises:
        RunError: what it holds, and what to do.
    """
    path = output / SETTINGS
    if output.is_file():
        raise RunError(f"{output} is a file; give a directory for the run")
    if not path.is_file():
        if output.is_dir() and any(output.iterdir()):
            raise RunError(f"{output} holds other files; give an empty directory")
        return
    try:
        held = parse(TrainConfig, read_yaml(path), str(path))
    except ConfigError as error:
        raise RunError(
            f"{error} (another mpdiag's run, or damaged); give another directory"
        ) from None
    changed = difference(held.model_dump(mode="json"), config.model_dump(mode="json"))
    if changed:
        raise RunError(
            f"{output} holds a run of other settings ({', '.join(changed[:5])}); give another "
            "directory"
        )
    if (output / FINAL).is_file():
        raise RunError(f"{output} holds this run, finished; give another directory")
    if not resume and (output / LAST).is_file():
        raise RunError(f"{output} holds this run unfinished; go on with --resume")


def claim(output: Path, config: TrainConfig) -> None:
    """Make the directory and note there what the run's settings are."""
    output.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    replace_file(output / SETTINGS, text.encode())


def difference(held: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Dotted keys of two dumped `TrainConfig`s whose values differ, those aside that may."""
    flat_held, flat_wanted = _flat(held, ""), _flat(wanted, "")
    return [
        key for key in flat_wanted if key not in FREE and flat_held.get(key) != flat_wanted[key]
    ]


def _flat(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
