"""Write a checkpoint anew in the official (detectron2) form or as a transformers directory."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from mpdiag.checkpoints.detectron2_config import Setup
from mpdiag.checkpoints.loading import LoadedCheckpoint, load_checkpoint
from mpdiag.checkpoints.saving import save_checkpoint
from mpdiag.checkpoints.transformers_form import write_transformers
from mpdiag.config import LossConfig
from mpdiag.errors import CheckpointError

Form = Literal["detectron2", "transformers"]

_log = logging.getLogger(__name__)


def convert(
    source: str | Path, destination: str | Path, to: Form, config: str | Path | None = None
) -> Path:
    """Write the model of `source` to `destination`, whole or not at all.

    Args:
        source: anything that `load_checkpoint` reads.
        destination: a new `.pth` file (detectron2) or a new or empty directory (transformers).
        to: the form to write.
        config: as for `load_checkpoint`.

    Raises:
        CheckpointError, ConfigError: the source can't be read or has no such form, or the
            destination is taken or can't be written.
    """
    target = Path(destination)
    _refuse_taken(target, to)
    loaded = load_checkpoint(source, config)
    if to == "transformers" and loaded.model.config.feature_maps == "all-large":
        raise CheckpointError(
            f"{loaded.path}: attends to stride 8 in all layers, which transformers' Mask2Former "
            "can't; convert it to detectron2"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if to == "detectron2":
            _write_official(target, loaded)
        else:
            _write_directory(target, loaded)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{target}: can't be written ({error})") from None
    return target


def _refuse_taken(target: Path, to: Form) -> None:
    if to == "detectron2" and target.suffix != ".pth":
        raise CheckpointError(f"{target}: the official form is a file; give a name ending in .pth")
    empty = to == "transformers" and target.is_dir() and not any(target.iterdir())
    if target.exists() and not empty:
        raise CheckpointError(
            f"{target}: there already, and not overwritten; remove it or give another name"
        )


def _write_official(target: Path, loaded: LoadedCheckpoint) -> None:
    """What the official form has no place for goes into an entry of ours."""
    setup = loaded.setup or Setup(LossConfig())
    if loaded.recipe:
        own: dict[str, Any] = {"recipe": loaded.recipe.model_dump(mode="json")}
    else:
        own = {
            "model": loaded.model.config.model_dump(mode="json"),
            "loss": setup.loss.model_dump(mode="json"),
            "short_side": setup.short_side,
            "long_side": setup.long_side,
        }
    own |= {"classes": loaded.classes} if loaded.classes else {}
    own |= {"labels": loaded.labels} if loaded.labels else {}
    weight = setup.loss.no_object_weight
    save_checkpoint(target, loaded.model, no_object_weight=weight, mpdiag=own)


def _write_directory(target: Path, loaded: LoadedCheckpoint) -> None:
    """Through a directory beside the target, renamed when it is whole."""
    config = loaded.model.config
    if not config.query_position:
        _log.info("%s has no query positions: they are written as zeros", loaded.path)
    if config.label_embedding:
        _log.info("%s: label_enc, used in training alone, is left out", loaded.path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        write_transformers(
            temporary,
            loaded.model,
            loaded.setup,
            labels=loaded.labels,
            classes=loaded.classes,
            recipe=loaded.recipe,
        )
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
