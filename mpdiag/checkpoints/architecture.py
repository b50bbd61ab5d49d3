"""Derive the architecture of a model from the names and shapes of its weights."""

import math
from collections.abc import Mapping

from torch import Tensor

from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.errors import CheckpointError
from mpdiag.models.pixel_decoder import LEVELS
from mpdiag.models.swin import PUBLISHED_SWINS, SwinShape

ENCODER_POINTS = 4  # in every published model; the weights give points x heads only

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
        CheckpointError: a part is missing, or the backbone is unknown.
    """
    needed = (
        "decoder.class_embed.weight",
        "decoder.query_feat.weight",
        "pixel_decoder.level_embed",
        "pixel_decoder.mask_features.weight",
        "pixel_decoder.layers.0.linear1.weight",
        "pixel_decoder.layers.0.self_attn.sampling_offsets.bias",
        "decoder.layers.0.linear1.weight",
    )
    for name in needed:
        if name not in weights:
            raise CheckpointError(f"{source}: not a complete Mask2Former model; it has no {name}")
    classes, dim = weights["decoder.class_embed.weight"].shape
    return ModelConfig(
        num_classes=classes - 1,
        backbone=backbone_config_of(weights, source),
        hidden_dim=dim,
        mask_dim=len(weights["pixel_decoder.mask_features.weight"]),
        num_heads=num_sampling_points(weights) // ENCODER_POINTS,
        encoder_layers=_count(weights, "pixel_decoder.layers."),
        encoder_feedforward_dim=len(weights["pixel_decoder.layers.0.linear1.weight"]),
        encoder_points=ENCODER_POINTS,
        decoder_layers=_count(weights, "decoder.layers."),
        feedforward_dim=len(weights["decoder.layers.0.linear1.weight"]),
        num_queries=len(weights["decoder.query_feat.weight"]),
        query_position="decoder.query_embed.weight" in weights,
        label_embedding="decoder.label_embed.weight" in weights,
    )


def num_sampling_points(weights: Mapping[str, Tensor]) -> int:
    """Return heads times points of the pixel decoder's deformable attention."""
    offsets = weights["pixel_decoder.layers.0.self_attn.sampling_offsets.bias"].numel()
    return offsets // (LEVELS * 2)


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
    stem, *widths = [len(weights[f"{conv}.weight"]) for conv in first]
    return BackboneConfig(
        name=name,
        channels=(widths[0], widths[1], widths[2], widths[3]),
        stem_channels=stem,
        norm="batch" if "backbone.bn1.num_batches_tracked" in weights else "frozen",
    )


def _swin(weights: Mapping[str, Tensor], source: str) -> BackboneConfig:
    """Read a Swin, whose bias tables have a row per offset in a window and a column per head.

    All stages of a published Swin have the same window size.
    """
    depths = [_count(weights, f"backbone.stages.{stage}.blocks.") for stage in range(4)]
    tables = [
        weights.get(f"backbone.stages.{stage}.blocks.0.attn.relative_position_bias_table")
        for stage in range(4)
    ]
    embed = weights.get("backbone.patch_embed.proj.weight")
    known = [table for table in tables if table is not None]
    if embed is None or len(known) < 4:
        raise CheckpointError(f"{source}: incomplete Swin; it needs patch_embed and four stages")
    heads = [table.shape[1] for table in known]
    shape = SwinShape(
        embed_dim=len(embed),
        depths=(depths[0], depths[1], depths[2], depths[3]),
        num_heads=(heads[0], heads[1], heads[2], heads[3]),
        window_size=(math.isqrt(len(known[0])) + 1) // 2,
    )
    names = {
        (known.embed_dim, known.depths, known.num_heads): name
        for name, (known, _) in PUBLISHED_SWINS.items()
    }
    return BackboneConfig(
        name=names.get((shape.embed_dim, shape.depths, shape.num_heads), "swin"),
        embed_dim=shape.embed_dim,
        depths=shape.depths,
        num_heads=shape.num_heads,
        window_size=shape.window_size,
    )


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    found = {name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)}
    return len(found)
