"""The architecture that a set of weights belongs to, read from names and shapes alone."""

import math
from collections.abc import Mapping

from torch import Tensor

from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.errors import CheckpointError
from mpdiag.models.pixel_decoder import LEVELS
from mpdiag.models.swin import PUBLISHED, SwinShape

ENCODER_POINTS = 4  # of every published model; weights give only points x heads

_RESNETS: dict[tuple[str | int, ...], str] = {
    ("basic", 2, 2, 2, 2): "resnet18",
    ("basic", 3, 4, 6, 3): "resnet34",
    ("bottleneck", 3, 4, 6, 3): "resnet50",
    ("bottleneck", 3, 4, 23, 3): "resnet101",
    ("bottleneck", 3, 8, 36, 3): "resnet152",
}


def architecture_of(weights: Mapping[str, Tensor], source: str) -> ModelConfig:
    """Settings of the model that has these parameters (our names).

    Heads are taken to be the same in both decoders; class names and image sizes are not in the
    weights.

    Raises:
        CheckpointError: a part is missing, or the backbone is not known.
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
            raise CheckpointError(f"{source}: no {name} in it, so it is no whole Mask2Former model")
    classes, dim = weights["decoder.class_embed.weight"].shape
    return ModelConfig(
        num_classes=classes - 1,
        backbone=backbone_of(weights, source),
        hidden_dim=dim,
        mask_dim=len(weights["pixel_decoder.mask_features.weight"]),
        heads=sampled_points(weights) // ENCODER_POINTS,
        encoder_layers=_count(weights, "pixel_decoder.layers."),
        encoder_feedforward_dim=len(weights["pixel_decoder.layers.0.linear1.weight"]),
        encoder_points=ENCODER_POINTS,
        decoder_layers=_count(weights, "decoder.layers."),
        feedforward_dim=len(weights["decoder.layers.0.linear1.weight"]),
        num_queries=len(weights["decoder.query_feat.weight"]),
        query_position="decoder.query_embed.weight" in weights,
        label_embedding="decoder.label_embed.weight" in weights,
    )


def sampled_points(weights: Mapping[str, Tensor]) -> int:
    """Heads times points of the pixel decoder's deformable attention."""
    offsets = weights["pixel_decoder.layers.0.self_attn.sampling_offsets.bias"].numel()
    return offsets // (LEVELS * 2)


def family_of(config: ModelConfig) -> str:
    """Whose model it is, in words: the released MP-Former has no query positions."""
    if not config.query_position:
        return "MP-Former"
    return "Mask2Former, piloted" if config.label_embedding else "Mask2Former"


def backbone_of(weights: Mapping[str, Tensor], source: str) -> BackboneConfig:
    """Settings of the backbone among these parameters (our names).

    Raises:
        CheckpointError: neither a ResNet nor a Swin that is known.
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
            f"{source}: backbone not recognised ({kind} blocks {blocks}); ResNet-18 to 152 and "
            "Swin are read from weights alone"
        )
    stem, *widths = [len(weights[f"{conv}.weight"]) for conv in first]
    return BackboneConfig(
        name=name,
        channels=(widths[0], widths[1], widths[2], widths[3]),
        stem_channels=stem,
        norm="batch" if "backbone.bn1.num_batches_tracked" in weights else "frozen",
    )


def _swin(weights: Mapping[str, Tensor], source: str) -> BackboneConfig:
    """The bias table of a block has a row for each offset in a window and a column for each head.

    The window is the same in all stages of every published Swin.
    """
    depths = [_count(weights, f"backbone.stages.{stage}.blocks.") for stage in range(4)]
    tables = [
        weights.get(f"backbone.stages.{stage}.blocks.0.attn.relative_position_bias_table")
        for stage in range(4)
    ]
    embed = weights.get("backbone.patch_embed.proj.weight")
    known = [table for table in tables if table is not None]
    if embed is None or len(known) < 4:
        raise CheckpointError(f"{source}: its Swin has no patch_embed, or not four whole stages")
    heads = [table.shape[1] for table in known]
    shape = SwinShape(
        embed_dim=len(embed),
        depths=(depths[0], depths[1], depths[2], depths[3]),
        num_heads=(heads[0], heads[1], heads[2], heads[3]),
        window=(math.isqrt(len(known[0])) + 1) // 2,
    )
    names = {
        (known.embed_dim, known.depths, known.num_heads): name
        for name, (known, _) in PUBLISHED.items()
    }
    return BackboneConfig(
        name=names.get((shape.embed_dim, shape.depths, shape.num_heads), "swin"),
        embed_dim=shape.embed_dim,
        depths=shape.depths,
        num_heads=shape.num_heads,
        window=shape.window,
    )


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    found = {name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)}
    return len(found)
