"""Methods of the paper by name: what turns a batch into the losses that train a model."""

from mpdiag.config import TrainConfig
from mpdiag.errors import ConfigError
from mpdiag.models import Mask2Former
from trainers.methods.batch import Batch, Census, Losses, Randomness
from trainers.methods.per_pixel import PerPixel
from trainers.methods.piloting import MaskPiloting
from trainers.methods.set_prediction import SetPrediction

Method = SetPrediction | PerPixel

NAMES = {
    "baseline": "Mask2Former: match every layer anew, supervise every layer",
    "piloted": "the MP part of MP-Former beside it; settings under pilot",
    "fixed-matching": "match the last layer alone, reuse for all (appendix C.1)",
    "auxiliary-loss": "pull each layer's masks to those of the layer before (Eq. 6)",
    "per-pixel": "warm start of backbone and pixel decoder; stands alone",
}


def method_parts(name: str) -> frozenset[str]:
    """The names that `name` joins by `+`.

    Raises:
        ConfigError: one does not exist, or does not go with the others.
    """
    parts = frozenset(part.strip() for part in name.split("+"))
    unknown = sorted(parts - NAMES.keys())
    if unknown:
        raise ConfigError(
            f"method = {name}: no such method as {unknown[0]!r}; there are {', '.join(NAMES)}"
        )
    if "per-pixel" in parts and len(parts) > 1:
        raise ConfigError(f"method = {name}: per-pixel trains no queries; give it alone")
    return parts


def build_method(model: Mask2Former, config: TrainConfig) -> Method:
    """The method that the settings name, around `model`."""
    parts = method_parts(config.method)
    if parts == {"per-pixel"}:
        return PerPixel(model)
    return SetPrediction(
        model,
        config.loss,
        MaskPiloting(config) if "piloted" in parts else None,
        fixed="fixed-matching" in parts,
        consistent="auxiliary-loss" in parts,
    )


def needs_label_embedding(config: TrainConfig) -> bool:
    """Whether the method's model has class embeddings for an MP part."""
    return "piloted" in method_parts(config.method) and config.pilot.feed != "feature-mean"


__all__ = [
    "NAMES",
    "Batch",
    "Census",
    "Losses",
    "Method",
    "PerPixel",
    "Randomness",
    "SetPrediction",
    "build_method",
    "method_parts",
    "needs_label_embedding",
]
