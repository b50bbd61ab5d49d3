"""Training methods. Each file of this package that defines a `Method` adds one."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from pydantic import ConfigDict, create_model

from mpdiag.config import TrainConfig
from mpdiag.errors import ConfigError
from mpdiag.models import Mask2Former
from trainers.methods.batch import Batch, Losses, LossNormalizers, Randomness
from trainers.methods.combined import CombinedMethod
from trainers.methods.method import Method


def _discover() -> dict[str, type[Method]]:
    """Return the methods of this package by name, the baseline first."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    found = {
        value.name: value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value is not Method
    }
    return {"baseline": found["baseline"], **found}


METHODS = _discover()


class _StrictTrainConfig(TrainConfig):
    model_config = ConfigDict(extra="forbid")


_SECTIONS: dict[str, Any] = {
    method.section: (method.settings_type, method.settings_type())
    for method in METHODS.values()
    if method.section
}
FullTrainConfig: type[TrainConfig] = create_model(
    "FullTrainConfig", __base__=_StrictTrainConfig, **_SECTIONS
)
"""TrainConfig with the settings of all methods; it refuses unknown keys."""


def methods_of(config: TrainConfig) -> list[type[Method]]:
    """Return the methods that `config.method` combines, in the order in which they run.

    Raises:
        ConfigError: a method does not exist, or does not combine with the others.
    """
    names = {name.strip() for name in config.method.split("+")}
    unknown = sorted(names - METHODS.keys())
    if unknown:
        raise ConfigError(
            f"method = {config.method}: unknown method {unknown[0]!r}; choose from "
            f"{', '.join(METHODS)}"
        )
    alone = [name for name in names if METHODS[name].stands_alone]
    if alone and len(names) > 1:
        raise ConfigError(f"method = {config.method}: {alone[0]} does not combine with others")
    if not alone:
        names.add("baseline")
    return [method for name, method in METHODS.items() if name in names]


def build_method(model: Mask2Former, config: TrainConfig) -> CombinedMethod:
    """Return the methods of a configuration with the model that they train."""
    if model.decoder.label_embed is not None and not needs_label_embedding(config):
        model.decoder.label_embed.requires_grad_(False)  # DDP needs gradients of all parameters
    if not config.model.encoder_layers:  # which use the embeddings of levels
        model.pixel_decoder.level_embed.requires_grad_(False)
    return CombinedMethod(model, [method(config) for method in methods_of(config)], config.loss)


def needs_label_embedding(config: TrainConfig) -> bool:
    """Return whether the model needs class embeddings, for an MP part."""
    return any(method.needs_label_embedding(config) for method in methods_of(config))


__all__ = [
    "METHODS",
    "Batch",
    "CombinedMethod",
    "FullTrainConfig",
    "LossNormalizers",
    "Losses",
    "Method",
    "Randomness",
    "build_method",
    "methods_of",
    "needs_label_embedding",
]
