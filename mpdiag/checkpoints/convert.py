"""Write a checkpoint anew in the official (detectron2) form or as a transformers directory."""

import logging
import shutil
from pathlib import Path
from typing import Literal

from mpdiag.checkpoints.loading import LoadedCheckpoint, load_checkpoint
from mpdiag.checkpoints.saving import save_checkpoint
from mpdiag.checkpoints.transformers_form import write_transformers
from mpdiag.config import LossConfig
from mpdiag.errors import CheckpointError

Form = Literal["detectron2", "transformers"]

_log = logging.getLogger(__name__)


def convert(source: str | Path, destination: str | Path, to: Form) -> Path:
    """Write the model of `source` to `destination`, whole or not at all.

    Args:
        source: anything that `load_checkpoint` reads.
        destination: a new `.pth` file (detectron2) or a new or empty directory (transformers).
        to: the form to write.

    Raises:
        CheckpointError: the source can't be read or has no such form, or the destination is taken.
    """
    target = Path(destination)
    _refuse_taken(target, to)
    loaded = load_checkpoint(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    if to == "detectron2":
        _write_official(target, loaded)
    else:
        _write_directory(target, loaded)
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
    loss = loaded.recipe.loss if loaded.recipe else LossConfig()
    own = {}
    if loaded.recipe:
        own["recipe"] = loaded.recipe.model_dump(mode="json")
    if loaded.classes:
        own["classes"] = loaded.classes
    extra = {"mpdiag": own} if own else {}
    save_checkpoint(target, loaded.model, no_object_weight=loss.no_object_weight, **extra)


def _write_directory(target: Path, loaded: LoadedCheckpoint) -> None:
    """Through a directory beside the target, renamed when it is whole."""
    config = loaded.model.config
    if not config.query_position:
        _log.info("%s has no query positions: they are written as zeros", loaded.path)
    if config.label_embedding:
        _log.info("%s: label_enc, used in training alone, is left out", loaded.path)
    loss = loaded.recipe.loss if loaded.recipe else LossConfig()
    temporary = target.with_name(target.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        write_transformers(temporary, loaded.model, loss, loaded.classes)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
