"""Open a model from a path, a hub id or a module."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mpdiag.checkpoints.checksums import files_sha256, parameters_sha256
from mpdiag.checkpoints.hub import local_path
from mpdiag.checkpoints.loading import LoadedCheckpoint, load_checkpoint
from mpdiag.checkpoints.transformers_directory import is_transformers_directory
from mpdiag.checkpoints.transformers_models import (
    load_module,
    load_processor,
    model_type_of,
    processor_of,
    weight_files,
)
from mpdiag.choices import Engine
from mpdiag.errors import CheckpointError, ConfigError, UnsafeCheckpointError
from mpdiag.models import Mask2Former
from mpdiag.recording.family import is_instance_by_name


@dataclass(frozen=True, slots=True)
class ExternalModel:
    """A model that another library runs, in evaluation mode.

    Attributes:
        name: its path, or the name of its class.
        sha256: checksum of its weight files, or of its parameters if it was given as a module.
        module: the model.
        processor: image processor of transformers; None for an official model of detectron2, which
            preprocesses its images itself.
    """

    name: str
    sha256: str
    module: nn.Module
    processor: Any = None


OpenedModel = LoadedCheckpoint | ExternalModel


def open_model(
    source: str | Path | LoadedCheckpoint | nn.Module,
    config: str | Path | None = None,
    engine: Engine | None = None,
    processor: Any = None,
) -> OpenedModel:
    """Open a model in evaluation mode; mpdiag runs it if it can, otherwise transformers does.

    Args:
        source: a checkpoint, a training output directory, a transformers directory or hub id, a
            loaded checkpoint, or a module: mpdiag's Mask2Former, a segmentation model of
            transformers, or an official model of detectron2.
        config: a detectron2 YAML, as for `load_checkpoint`.
        engine: library that runs the model.
        processor: image processor of a transformers module.

    Raises:
        CheckpointError: the model can't be loaded.
        ConfigError: an argument does not fit the model.
        DependencyError: transformers is not installed.
    """
    if isinstance(source, LoadedCheckpoint):
        return source
    if isinstance(source, nn.Module):
        return _open_module(source, processor)
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
    module, processor = load_module(path, model_type), load_processor(path, model_type)
    return ExternalModel(str(path), files_sha256(weight_files(path)), module, processor)


def _open_module(module: nn.Module, processor: Any) -> OpenedModel:
    name, sha256 = type(module).__name__, parameters_sha256(module)
    if isinstance(module, Mask2Former):
        return LoadedCheckpoint(Path(name), "module", sha256, module.eval())
    if is_instance_by_name(module, "mask2former", "MaskFormer"):
        return ExternalModel(f"official {name}", sha256, module.eval())
    return ExternalModel(name, sha256, module.eval(), processor or processor_of(module))


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
