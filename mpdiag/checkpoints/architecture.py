"""Derive the architecture of a model from the names and shapes of its weights."""

import math
from collections.abc import Mapping

from torch import Tensor

from mpdiag.config import BackboneConfig, ModelConfig, parse
from mpdiag.errors import CheckpointError
from mpdiag.models.pixel_decoder import LEVELS
from mpdiag.models.swin import PUBLISHED_SWINS

ENCODER_POINTS = 4  # in every published model; the weights give points x heads only

_OFFSETS = "pixel_decoder.layers.0.self_attn.sampling_offsets.bias"
_RESNETS: dict[tuple[str | int, ...], str] = {
    ("basic", 2, 2, 2, 2): "resnet18",
    ("basic", 3, 4, 6, 3): "resnet34",
    ("bottleneck", 3, 4, 6, 3): "resnet50",
    ("bottleneck", 3, 4, 23, 3): "resnet101",
    ("bottleneck", 3, 8, 36, 3): "resnet152",
}


def model_config_of(weights: Mapping[str, Tensor], source: str) -> ModelConfig:
    """Return the settings of the model that has these parameters (mpdiag's names).

    Both decoders are assumed to have equal numbers of heads.

    Raises:
        CheckpointError: a part is missing or has other dimensions, or the backbone is unknown.
        ConfigError: a size is beyond the limits of `ModelConfig`.
    """
    classes, dim = _shape(weights, "decoder.class_embed.weight", 2, source)
    queries, _ = _shape(weights, "decoder.query_feat.weight", 2, source)
    mask_dim, *_ = _shape(weights, "pixel_decoder.mask_features.weight", 4, source)
    encoder_width, _ = _shape(weights, "pixel_decoder.layers.0.linear1.weight", 2, source)
    decoder_width, _ = _shape(weights, "decoder.layers.0.linear1.weight", 2, source)
    _shape(weights, _OFFSETS, 1, source)
    sampling_points = num_sampling_points(weights)
    heads = sampling_points // ENCODER_POINTS
    if not heads or dim % heads:
        heads = math.gcd(sampling_points, dim)
    settings = {
        "num_classes": classes - 1,
        "backbone": backbone_config_of(weights, source),
        "hidden_dim": dim,
        "mask_dim": mask_dim,
        "num_heads": heads,
        "encoder_layers": _count(weights, "pixel_decoder.layers."),
        "encoder_feedforward_dim": encoder_width,
        "encoder_points": sampling_points // max(heads, 1),
        "decoder_layers": _count(weights, "decoder.layers."),
        "feedforward_dim": decoder_width,
        "num_queries": queries,
        "query_position": "decoder.query_embed.weight" in weights,
        "label_embedding": "decoder.label_embed.weight" in weights,
    }
    return parse(ModelConfig, settings, source)


def num_sampling_points(weights: Mapping[str, Tensor]) -> int:
    """Return heads times points of the pixel decoder's deformable attention."""
    return weights[_OFFSETS].numel() // (LEVELS * 2)


def family_name(config: ModelConfig) -> str:
    """Return the name of the model; the released MP-Former has no query positions."""
    if not config.query_position:
        return "MP-Former"
    return "Mask2Former, piloted" if config.label_embedding else "Mask2Former"


def backbone_config_of(weights: Mapping[str, Tensor], source: str) -> BackboneConfig:
    """Return the settings of the backbone among these parameters (mpdiag's names).

    Raises:
        CheckpointError: the backbone is not a known ResNet or Swin.
    """
    if any(name.startswith("backbone.stages.") for name in weights):
        return _swin(weights, source)
    return _resnet(weights, source)


def _resnet(weights: Mapping[str, Tensor], source: str) -> BackboneConfig:
    blocks = [_count(weights, f"backbone.layer{stage}.") for stage in range(1, 5)]
    kind = "bottleneck" if "backbone.layer1.0.conv3.weight" in weights else "basic"
    name = _RESNETS.get((kind, *blocks))
    first = ["backbone.conv1", *(f"backbone.layer{stage}.0.conv1" for stage in range(1, 5))]
    if name is None or any(f"{conv}.weight" not in weights for conv in first):
        raise CheckpointError(
            f"{source}: unknown backbone ({kind} blocks {blocks}); ResNet-18 to 152 and Swin are "
            "supported"
        )
    stem, *widths = [_shape(weights, f"{conv}.weight", 4, source)[0] for conv in first]
    last = "conv3" if kind == "bottleneck" else "conv2"
    for stage in range(1, 5):  # their widths are compared with the settings of transformers
        _shape(weights, f"backbone.layer{stage}.0.{last}.weight", 4, source)
    settings = {
        "name": name,
        "channels": widths,
        "stem_channels": stem,
        "norm": "batch" if "backbone.bn1.num_batches_tracked" in weights else "frozen",
    }
    return parse(BackboneConfig, settings, source)


def _swin(weights: Mapping[str, Tensor], source: str) -> BackboneConfig:
    """Read a Swin, whose bias tables have a row per offset in a window and a column per head.

    All stages of a published Swin have the same window size.
    """
    depths = [_count(weights, f"backbone.stages.{stage}.blocks.") for stage in range(4)]
    table = "backbone.stages.{}.blocks.0.attn.relative_position_bias_table"
    tables = [_shape(weights, table.format(stage), 2, source) for stage in range(4)]
    embed_dim, *_ = _shape(weights, "backbone.patch_embed.proj.weight", 4, source)
    heads = [columns for _, columns in tables]
    names: dict[tuple[object, ...], str] = {
        (known.embed_dim, known.depths, known.num_heads): name
        for name, (known, _) in PUBLISHED_SWINS.items()
    }
    settings = {
        "name": names.get((embed_dim, tuple(depths), tuple(heads)), "swin"),
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": heads,
        "window_size": (math.isqrt(tables[0][0]) + 1) // 2,
    }
    return parse(BackboneConfig, settings, source)


def _shape(weights: Mapping[str, Tensor], name: str, ndim: int, source: str) -> tuple[int, ...]:
    """Return the shape of an entry, which must exist and have `ndim` dimensions."""
    if name not in weights:
        raise CheckpointError(f"{source}: not a complete Mask2Former model; it has no {name}")
    shape = tuple(weights[name].shape)
    if len(shape) != ndim:
        raise CheckpointError(f"{source}: {name} has the shape {shape}, not {ndim} dimensions")
    return shape


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    found = {name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)}
    return len(found)
