"""Output directory of a training: its files, and the check before a run writes to it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from mpdiag.config import TrainConfig, parse, read_yaml
from mpdiag.errors import ConfigError, RunError
from mpdiag.legacy_names import upgrade_config
from mpdiag.store.files import TEMPORARY_SUFFIX, replace_file
from mpdiag.store.lock import LOCK, lock_directory
from trainers.distributed import DistributedContext
from trainers.methods import FullTrainConfig

LAST, BEST, FINAL, SETTINGS = "last.pth", "model_best.pth", "model_final.pth", "config.yaml"

# Settings that a resumed run may change. None of them changes a result.
MUTABLE = (
    "data.root", "data.val_root", "data.num_workers", "log_every", "checkpoint_every", "wandb",
)  # fmt: skip


@contextmanager
def lock_output(output: Path, distributed: DistributedContext) -> Iterator[None]:
    """Lock the directory on the main process. If that fails, the other processes exit with code 2.

    Raises:
        RunError: another process writes to the directory, or it is a file.
    """
    with ExitStack() as stack:
        error: Exception | None = None
        if distributed.is_main_process:
            try:
                stack.enter_context(lock_directory(output))
            except (RunError, OSError) as caught:
                error = caught
        if distributed.any(error is not None):
            raise error or SystemExit(2)
        yield


def check_output_dir(output: Path, config: TrainConfig, *, resume: bool) -> None:
    """Check that the directory is empty, or holds this run unfinished and `resume` is set.

    Raises:
        RunError: what the directory holds, and what to do.
    """
    path = output / SETTINGS
    if output.is_file():
        raise RunError(f"{output}: is a file; give a directory for the run")
    if not path.is_file():
        ours = {LOCK, SETTINGS + TEMPORARY_SUFFIX}  # of a run that was killed at its start
        if output.is_dir() and any(entry.name not in ours for entry in output.iterdir()):
            raise RunError(f"{output}: holds other files; give an empty directory")
        return
    try:
        held = parse(FullTrainConfig, upgrade_config(read_yaml(path)), str(path))
    except ConfigError as error:
        raise RunError(
            f"{error} (written by another version, or damaged); give another directory"
        ) from None
    changed = changed_settings(held.model_dump(mode="json"), config.model_dump(mode="json"))
    if changed:
        raise RunError(
            f"{output}: holds a run with other settings ({', '.join(changed[:5])}); give another "
            "directory"
        )
    if (output / FINAL).is_file():
        raise RunError(f"{output}: holds this run, finished; give another directory")
    if not resume and (output / LAST).is_file():
        raise RunError(f"{output}: holds this run, unfinished; continue it with --resume")


def create_output_dir(output: Path, config: TrainConfig) -> None:
    """Create the directory and write the configuration to it."""
    output.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    replace_file(output / SETTINGS, text.encode())


def changed_settings(held: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return the dotted keys whose values differ in two dumped configurations, without MUTABLE."""
    flat_held, flat_wanted = (
        _flat(one | {"init": _without_location(one["init"])}, "") for one in (held, wanted)
    )
    return [
        key for key in flat_wanted if key not in MUTABLE and flat_held.get(key) != flat_wanted[key]
    ]


def _without_location(init: str | None) -> str | None:
    """Return `trainings/NAME` for a training of a reproduction, whose directory may be moved."""
    path = Path(init or "")
    return f"trainings/{path.name}" if path.parent.name == "trainings" else init


def _flat(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
