"""Our settings as transformers' `config.json` and `preprocessor_config.json` have them, and back.

Settings and their defaults: transformers' `Mask2FormerConfig`, `ResNetConfig`, `SwinConfig` and
`MaskFormerImageProcessor`. Its pixel decoder has 4 points and as many heads as its decoder.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mpdiag.checkpoints.architecture import ENCODER_POINTS
from mpdiag.config import LossConfig, ModelConfig, parse
from mpdiag.errors import CheckpointError

Settings = dict[str, Any]
Classes = Sequence[Mapping[str, Any]]

# Fields of our LossConfig by transformers' names.
_LOSS = {
    "class_weight": "class_weight",
    "mask_weight": "mask_weight",
    "dice_weight": "dice_weight",
    "no_object_weight": "no_object_weight",
    "train_num_points": "points",
    "oversample_ratio": "oversample",
    "importance_sample_ratio": "importance",
}
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_SHORT_SIDE, _LONG_SIDE = 800, 1333  # of the published COCO models at inference


def architecture_settings(config: ModelConfig, weights: Mapping[str, Tensor]) -> Settings:
    """The architecture in the words of config.json, its fixed parts included.

    Args:
        config: settings of our model.
        weights: its parameters (our names), for the backbone's sizes.

    Raises:
        CheckpointError: transformers' Mask2Former has no such backbone or pixel decoder.
    """
    if config.encoder_points != ENCODER_POINTS:
        raise CheckpointError(
            f"model.encoder_points = {config.encoder_points}: transformers' Mask2Former has "
            f"{ENCODER_POINTS} and nothing else"
        )
    return {
        "model_type": "mask2former",
        "backbone_config": _backbone(config, weights),
        "hidden_dim": config.hidden_dim,
        "feature_size": config.hidden_dim,
        "mask_feature_size": config.mask_dim,
        "num_attention_heads": config.heads,
        "encoder_layers": config.encoder_layers,
        "encoder_feedforward_dim": config.encoder_feedforward_dim,
        "decoder_layers": config.decoder_layers + 1,  # counts M^0 as well
        "dim_feedforward": config.feedforward_dim,
        "num_queries": config.num_queries,
        "activation_function": "relu",
        "pre_norm": False,
        "enforce_input_projection": False,
        "common_stride": 4,
        "feature_strides": [4, 8, 16, 32],
    }


def _backbone(config: ModelConfig, weights: Mapping[str, Tensor]) -> Settings:
    name = config.backbone.name.split(".")[0]
    if re.fullmatch(r"resnet(18|34|50|101|152)", name):
        return _resnet(weights)
    raise CheckpointError(
        f"model.backbone.name = {config.backbone.name}: has no transformers form here; ResNets "
        "have one"
    )


def _resnet(weights: Mapping[str, Tensor]) -> Settings:
    """Stride 2 is in the 3x3 convolution, as in timm and in the official configuration."""
    bottleneck = "backbone.layer1.0.conv3.weight" in weights
    last = "conv3" if bottleneck else "conv2"
    stages = range(1, 5)
    return {
        "model_type": "resnet",
        "embedding_size": len(weights["backbone.conv1.weight"]),
        "hidden_sizes": [
            len(weights[f"backbone.layer{stage}.0.{last}.weight"]) for stage in stages
        ],
        "depths": [
            sum(
                name.startswith(f"backbone.layer{stage}.") and name.endswith(".conv1.weight")
                for name in weights
            )
            for stage in stages
        ],
        "layer_type": "bottleneck" if bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        "out_features": _STAGES,
    }


def check_settings(settings: Mapping[str, Any], expected: Mapping[str, Any], source: str) -> None:
    """Refuse a config.json that says otherwise than its weights, or than our model can.

    A setting that it leaves out is transformers' default and shows in the weights.

    Raises:
        CheckpointError: names the first such setting.
    """
    for key, value in expected.items():
        given = settings.get(key)
        if isinstance(value, Mapping) and isinstance(given, Mapping):
            check_settings(given, value, f"{source}: {key}")
        elif given is not None and given != value:
            raise CheckpointError(
                f"{source}: {key} = {given!r}, but the weights beside it are those of a model "
                f"with {value!r}, the only kind that can be read"
            )


def model_settings(
    architecture: Mapping[str, Any], num_classes: int, loss: LossConfig, classes: Classes | None
) -> Settings:
    """A whole config.json; `classes` (category_id, name, isthing) also go into an entry of ours."""
    names = [f"LABEL_{index}" for index in range(num_classes)]
    own: Settings = {}
    if classes:
        names = [str(info["name"]) for info in classes]
        own = {"mpdiag": {"classes": [dict(info) for info in classes]}}
    values = loss.model_dump()
    return {
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        **architecture,
        **{theirs: values[ours] for theirs, ours in _LOSS.items() if values[ours] != "all"},
        "dropout": 0.0,
        "use_auxiliary_loss": True,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        **own,
    }


def loss_of(settings: Mapping[str, Any], source: str) -> LossConfig:
    """Costs and loss weights of a config.json; what it leaves out has our (and its) default."""
    values = {ours: settings[theirs] for theirs, ours in _LOSS.items() if theirs in settings}
    return parse(LossConfig, values, source)


def labels_of(settings: Mapping[str, Any], num_classes: int, source: str) -> list[str] | None:
    """Names of the classes in the order of the logits; None where a config.json names none.

    Raises:
        CheckpointError: it names more or fewer classes than the weights have.
    """
    names = settings.get("id2label")
    if not names:
        return None
    labels = [str(names.get(str(index))) for index in range(len(names))]
    if len(labels) != num_classes:
        raise CheckpointError(
            f"{source}: id2label names {len(labels)} classes, but the weights have {num_classes}"
        )
    unnamed = [f"LABEL_{index}" for index in range(num_classes)]  # transformers' placeholders
    return None if labels == unnamed else labels


def preprocessor_settings(config: ModelConfig) -> Settings:
    """A whole preprocessor_config.json: the published test size, this model's statistics."""
    return {
        "image_processor_type": "Mask2FormerImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": _SHORT_SIDE, "longest_edge": _LONG_SIDE},
        "size_divisor": 32,
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in config.pixel_mean],
        "image_std": [value / 255 for value in config.pixel_std],
        "ignore_index": 255,
        "do_reduce_labels": False,
    }


def pixel_statistics(settings: Mapping[str, Any], source: str) -> Settings:
    """Our `pixel_mean` and `pixel_std` (of values 0..255) of a preprocessor_config.json.

    Raises:
        CheckpointError: not three numbers each.
    """
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    found: Settings = {}
    for ours, theirs in (("pixel_mean", "image_mean"), ("pixel_std", "image_std")):
        values = settings.get(theirs)
        if values is None:
            continue
        try:
            red, green, blue = (round(float(value) / factor, 6) for value in values)
        except (TypeError, ValueError, ZeroDivisionError):
            raise CheckpointError(f"{source}: {theirs} = {values!r:.60}: give 3 numbers") from None
        found[ours] = (red, green, blue)
    return found
