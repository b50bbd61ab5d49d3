"""Open a model from a path, a hub id or a module."""

from pathlib import Path
from typing import Any

from torch import nn

from mpdiag.checkpoints.checksums import parameters_sha256
from mpdiag.checkpoints.custom_model import CustomModel
from mpdiag.checkpoints.external_models import ExternalModel
from mpdiag.checkpoints.hub import local_path
from mpdiag.checkpoints.loading import LoadedCheckpoint, load_checkpoint
from mpdiag.checkpoints.transformers_directory import is_transformers_directory, model_type_of
from mpdiag.choices import Engine
from mpdiag.errors import CheckpointError, ConfigError, UnsafeCheckpointError
from mpdiag.models import Mask2Former

OpenedModel = LoadedCheckpoint | ExternalModel | CustomModel
ModelSource = str | Path | OpenedModel | nn.Module
"""A path or hub id, or a model."""


def open_model(
    source: ModelSource,
    config: str | Path | None = None,
    engine: Engine | None = None,
    processor: Any = None,
) -> OpenedModel:
    """Open a model in evaluation mode; mpdiag runs it if it can, otherwise transformers does.

    Args:
        source: a checkpoint, a training output directory, a transformers directory or hub id, a
            model that is open, or a module: mpdiag's Mask2Former, a segmentation model of
            transformers, or an official model of detectron2.
        config: a detectron2 YAML, as for `load_checkpoint`.
        engine: library that runs the model.
        processor: image processor of a transformers module.

    Raises:
        CheckpointError: the model can't be loaded.
        ConfigError: an argument does not fit the model.
        DependencyError: transformers is not installed.
    """
    if isinstance(source, OpenedModel):
        return source
    if isinstance(source, Mask2Former):
        name, sha256 = Path(type(source).__name__), parameters_sha256(source)
        return LoadedCheckpoint(name, "module", sha256, source.eval())
    if isinstance(source, nn.Module):
        return ExternalModel.wrap(source, processor)
    path = local_path(source)
    model_type = model_type_of(path)
    if model_type is None and engine == "transformers":
        raise ConfigError(
            f"--engine transformers: {source} is no transformers directory or hub id; leave it out"
        )
    if model_type is None or (engine or model_type) in ("mpdiag", "mask2former"):
        try:
            return load_checkpoint(path, config)
        except UnsafeCheckpointError:
            raise
        except CheckpointError as error:
            if engine is not None or model_type is None or not is_transformers_directory(path):
                raise
            raise CheckpointError(
                f"{error}; or let transformers run it with --engine transformers"
            ) from error
    if config is not None:
        raise ConfigError(f"{config}: {source} has its own config.json; leave the file out")
    return ExternalModel.load(path, model_type)


def load_model(path: str | Path, config: str | Path | None = None) -> nn.Module:
    """Load the model of a checkpoint in evaluation mode, for `mpdiag.record` or `mpdiag.analyze`.

    Args:
        path: a checkpoint that `load_checkpoint` reads, which gives mpdiag's Mask2Former; or a
            directory or hub id of another segmentation model, which gives the module of
            transformers.
        config: a detectron2 YAML, as for `load_checkpoint`.

    Raises:
        CheckpointError, ConfigError, DependencyError: as for `open_model`.
    """
    opened = open_model(path, config)
    return opened.model if isinstance(opened, LoadedCheckpoint) else opened.module
