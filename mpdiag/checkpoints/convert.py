"""Convert a checkpoint to the official (detectron2) format or to a transformers directory."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mpdiag.checkpoints.detectron2_config import TrainingInfo
from mpdiag.checkpoints.loading import LoadedCheckpoint, load_checkpoint
from mpdiag.checkpoints.saving import save_checkpoint
from mpdiag.checkpoints.transformers_directory import CLASS_EMBEDDINGS, write_transformers
from mpdiag.choices import CheckpointFormat
from mpdiag.config import LossConfig
from mpdiag.errors import CheckpointError

_log = logging.getLogger(__name__)

_FILE_SUFFIXES = (".bin", ".ckpt", ".pkl", ".pt", ".pth", ".safetensors")


def convert(
    source: str | Path,
    destination: str | Path,
    to: CheckpointFormat | None = None,
    config: str | Path | None = None,
) -> Path:
    """Write the model of `source` to `destination` atomically.

    Args:
        source: any checkpoint that `load_checkpoint` reads.
        destination: a new `.pth` file (detectron2) or a new or empty directory (transformers).
        to: the format to write; by default detectron2 for the name of a file such as `model.pth`,
            else transformers.
        config: as for `load_checkpoint`.

    Returns:
        The path of the written file or directory.

    Raises:
        CheckpointError, ConfigError: the source can't be read or converted, or the destination
            exists or can't be written.
    """
    target = Path(destination)
    to = to or ("detectron2" if target.suffix in _FILE_SUFFIXES else "transformers")
    _check_destination(target, to)
    loaded = load_checkpoint(source, config)
    settings = loaded.model.config
    if to == "transformers" and not (
        settings.masked_attention and settings.feature_maps == "coarse-to-fine"
    ):
        how = "to stride 8 in all layers" if settings.masked_attention else "without masks"
        raise CheckpointError(
            f"{loaded.path}: attends {how}, which transformers' Mask2Former does not support; "
            "convert it to detectron2"
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


def _check_destination(target: Path, to: CheckpointFormat) -> None:
    if to == "detectron2" and target.suffix != ".pth":
        raise CheckpointError(
            f"{target}: the detectron2 format is a file; give a name that ends in .pth"
        )
    if target.resolve() == Path.cwd():  # a shell would stay in the directory that is replaced
        raise CheckpointError(f"{target}: is the current directory; give the name of a new one")
    empty = to == "transformers" and target.is_dir() and not any(target.iterdir())
    if target.exists() and not empty:
        raise CheckpointError(f"{target}: exists already; remove it or give another name")


def _write_official(target: Path, loaded: LoadedCheckpoint) -> None:
    """Write a `.pth` file; the entry "mpdiag" holds what the official format does not have."""
    training_info = loaded.training_info or TrainingInfo(LossConfig())
    if loaded.recipe:
        own: dict[str, Any] = {"recipe": loaded.recipe.model_dump(mode="json")}
    else:
        own = {
            "model": loaded.model.config.model_dump(mode="json"),
            "loss": training_info.loss.model_dump(mode="json"),
            "short_side": training_info.short_side,
            "long_side": training_info.long_side,
            "resize": training_info.resize,
        }
        if training_info.resize == "other":
            _log.warning(
                "%s resizes images in a way that %s does not keep; it is analysed at the published "
                "size",
                loaded.path,
                target,
            )
    own |= {"classes": loaded.classes} if loaded.classes else {}
    own |= {"labels": loaded.labels} if loaded.labels else {}
    weight = training_info.loss.no_object_weight
    save_checkpoint(target, loaded.model, no_object_weight=weight, mpdiag=own)


def _write_directory(target: Path, loaded: LoadedCheckpoint) -> None:
    """Write a temporary directory beside the target and rename it when it is complete."""
    config = loaded.model.config
    if not config.query_position:
        _log.info("%s has no query positions; they are written as zeros", loaded.path)
    if config.label_embedding:
        _log.info("%s: label_enc is written to %s", loaded.path, CLASS_EMBEDDINGS)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        write_transformers(
            temporary,
            loaded.model,
            loaded.training_info,
            labels=loaded.labels,
            classes=loaded.classes,
            recipe=loaded.recipe,
        )
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
