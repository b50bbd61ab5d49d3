"""Any model that can be analysed, from whatever the user gives: a path, a hub id, a module."""

from pathlib import Path
from typing import Any, Literal

from torch import nn

from mpdiag.checkpoints.hub import local_copy
from mpdiag.checkpoints.library_models import (
    LibraryModel,
    as_library_model,
    load_library_model,
    model_type,
    parameters_sha256,
)
from mpdiag.checkpoints.loading import LoadedCheckpoint, load_checkpoint
from mpdiag.checkpoints.official_modules import (
    OfficialModule,
    as_official_module,
    is_official,
)
from mpdiag.checkpoints.transformers_form import CONFIG, is_transformers
from mpdiag.errors import CheckpointError, ConfigError, UnsafeCheckpointError
from mpdiag.models import Mask2Former

Engine = Literal["mpdiag", "transformers"]
"""Whose code runs a model."""
AnyModel = LoadedCheckpoint | LibraryModel | OfficialModule


def open_model(
    given: str | Path | LoadedCheckpoint | nn.Module,
    config: str | Path | None = None,
    engine: Engine | None = None,
    processor: Any = None,
) -> AnyModel:
    """A model in evaluation mode, run by mpdiag where it can, else by transformers.

    Args:
        given: a checkpoint, a training output directory, a transformers directory or hub id, what
            `load_checkpoint` gave, or a module: our Mask2Former, one of transformers, or an
            official one of detectron2's.
        config: a detectron2 YAML, as for `load_checkpoint`.
        engine: whose code is to run it.
        processor: the image processor of a module of transformers.

    Raises:
        CheckpointError, ConfigError, DependencyError: the model can't be loaded, or not so.
    """
    if isinstance(given, LoadedCheckpoint):
        return given
    if isinstance(given, Mask2Former):
        name = Path(type(given).__name__)
        return LoadedCheckpoint(name, "module as it is", parameters_sha256(given), given.eval())
    if isinstance(given, nn.Module) and is_official(given):
        return as_official_module(given)
    if isinstance(given, nn.Module):
        return as_library_model(given, processor)
    path = local_copy(given)
    kind = model_type(path) if (path / CONFIG).is_file() else None
    if engine == "transformers" and kind is None:
        raise ConfigError(f"--engine transformers: {given} is no transformers directory or hub id")
    if kind is None or engine == "mpdiag":
        return load_checkpoint(path, config)
    if engine is None and kind == "mask2former":
        return _load_own(path, config)
    if config is not None:
        raise ConfigError(f"{config}: {given} has a config.json of its own; leave it out")
    return load_library_model(path)


def _load_own(path: Path, config: str | Path | None) -> LoadedCheckpoint:
    try:
        return load_checkpoint(path, config)
    except UnsafeCheckpointError:
        raise
    except CheckpointError as error:
        if not is_transformers(path):  # there is nothing that it could run
            raise
        raise CheckpointError(f"{error}; --engine transformers has that library run it") from error


def load_model(path: str | Path, config: str | Path | None = None) -> nn.Module:
    """The model of a checkpoint, in evaluation mode: what `mpdiag.record` and `analyze` take.

    Args:
        path: what `load_checkpoint` reads gives our Mask2Former; a transformers directory or hub
            id of another segmenter (`library_models.CLASSES`) gives transformers' own module.
        config: a detectron2 YAML, as for `load_checkpoint`.

    Raises:
        CheckpointError, ConfigError, DependencyError: see `open_model`.
    """
    opened = open_model(path, config)
    return opened.model if isinstance(opened, LoadedCheckpoint) else opened.module
