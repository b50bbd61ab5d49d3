"""The architecture that a set of weights belongs to, read from names and shapes alone."""

from collections.abc import Mapping

from torch import Tensor

from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.errors import CheckpointError
from mpdiag.models.pixel_decoder import LEVELS

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
    )
    for name in needed:
        if name not in weights:
            raise CheckpointError(f"{source}: no {name} in it, so it is no whole Mask2Former model")
    classes, dim = weights["decoder.class_embed.weight"].shape
    offsets = weights["pixel_decoder.layers.0.self_attn.sampling_offsets.bias"].numel()
    return ModelConfig(
        num_classes=classes - 1,
        backbone=_resnet(weights, source),
        hidden_dim=dim,
        mask_dim=len(weights["pixel_decoder.mask_features.weight"]),
        heads=offsets // (LEVELS * ENCODER_POINTS * 2),
        encoder_layers=_count(weights, "pixel_decoder.layers."),
        encoder_feedforward_dim=len(weights["pixel_decoder.layers.0.linear1.weight"]),
        encoder_points=ENCODER_POINTS,
        decoder_layers=_count(weights, "decoder.layers."),
        feedforward_dim=len(weights["decoder.layers.0.linear1.weight"]),
        num_queries=len(weights["decoder.query_feat.weight"]),
        query_position="decoder.query_embed.weight" in weights,
        label_embedding="decoder.label_embed.weight" in weights,
    )


def _resnet(weights: Mapping[str, Tensor], source: str) -> BackboneConfig:
    blocks = [_count(weights, f"backbone.layer{stage}.") for stage in range(1, 5)]
    kind = "bottleneck" if "backbone.layer1.0.conv3.weight" in weights else "basic"
    name = _RESNETS.get((kind, *blocks))
    if name is None:
        raise CheckpointError(
            f"{source}: backbone not recognised ({kind} blocks {blocks}); ResNet-18 to 152 are "
            "read from weights alone"
        )
    widths = [len(weights[f"backbone.layer{stage}.0.conv1.weight"]) for stage in range(1, 5)]
    return BackboneConfig(
        name=name,
        channels=(widths[0], widths[1], widths[2], widths[3]),
        stem_channels=len(weights["backbone.conv1.weight"]),
        norm="batch" if "backbone.bn1.num_batches_tracked" in weights else "frozen",
    )


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    found = {name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)}
    return len(found)
