"""Convert mpdiag's settings to transformers' config.json and preprocessor_config.json, and back.

Sources: transformers' `Mask2FormerConfig`, `ResNetConfig`, `SwinConfig` and
`MaskFormerImageProcessor`. Its pixel decoder has 4 points and as many heads as its decoder.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mpdiag.checkpoints.architecture import ENCODER_POINTS
from mpdiag.checkpoints.detectron2_config import TrainingInfo, image_sides
from mpdiag.config import BackboneConfig, LossConfig, ModelConfig, abbreviate, parse
from mpdiag.errors import CheckpointError
from mpdiag.models.swin import SwinShape, is_swin, swin_shape
from mpdiag.recording.families.transformers_mask2former import (
    MASK2FORMER_LOSS_KEYS,
    TransformersMask2FormerFamily,
)

Settings = dict[str, Any]

_STAGES = ["stage1", "stage2", "stage3", "stage4"]
PUBLISHED_SIZE = (800, 1333)  # short and long side of the COCO models at inference


def architecture_settings(config: ModelConfig, weights: Mapping[str, Tensor]) -> Settings:
    """Return the architecture as settings of config.json, including its fixed parts.

    Args:
        config: settings of mpdiag's model.
        weights: its parameters, for the sizes of the backbone.

    Raises:
        CheckpointError: transformers' Mask2Former does not support the backbone or pixel decoder.
    """
    if config.encoder_points != ENCODER_POINTS:
        raise CheckpointError(
            f"model.encoder_points = {config.encoder_points}: transformers' Mask2Former supports "
            f"{ENCODER_POINTS} only"
        )
    return {
        "model_type": "mask2former",
        "backbone_config": _backbone(config, weights),
        **decoder_settings(config),
    }


def decoder_settings(config: ModelConfig) -> Settings:
    """Return the settings of pixel decoder and decoder, including their fixed parts."""
    return {
        "hidden_dim": config.hidden_dim,
        "feature_size": config.hidden_dim,
        "mask_feature_size": config.mask_dim,
        "num_attention_heads": config.num_heads,
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


def has_transformers_backbone(config: BackboneConfig) -> bool:
    """Return whether transformers has a module of its own for the backbone: ResNets and Swins."""
    resnet = re.fullmatch(r"resnet(18|34|50|101|152)(\..*)?", config.name)
    return is_swin(config) or resnet is not None


def _backbone(config: ModelConfig, weights: Mapping[str, Tensor]) -> Settings:
    if is_swin(config.backbone):
        return _swin(swin_shape(config.backbone), config.backbone.drop_path_rate)
    if has_transformers_backbone(config.backbone):
        return _resnet(weights)
    raise CheckpointError(
        f"model.backbone.name = {config.backbone.name}: can't be written for transformers; only "
        "ResNet-18 to 152 and Swin can"
    )


def _swin(shape: SwinShape, drop_path: float) -> Settings:
    return {
        "model_type": "swin",
        "embed_dim": shape.embed_dim,
        "depths": list(shape.depths),
        "num_heads": list(shape.num_heads),
        "window_size": shape.window_size,
        "patch_size": 4,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "drop_path_rate": drop_path,
        "use_absolute_embeddings": False,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "out_features": _STAGES,
    }


def _resnet(weights: Mapping[str, Tensor]) -> Settings:
    """Return the settings of a ResNet whose stride 2 is in the 3x3 convolution, as in timm."""
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
    """Check that a config.json agrees with the weights and is supported by mpdiag's model.

    Settings that it does not contain are not checked.

    Raises:
        CheckpointError: names the first setting that differs.
    """
    for key, value in expected.items():
        given = settings.get(key)
        if isinstance(value, Mapping) and isinstance(given, Mapping):
            check_settings(given, value, f"{source}: {key}")
        elif given is not None and given != value:
            raise CheckpointError(
                f"{source}: {key} = {abbreviate(given)}, but the weights belong to a model with "
                f"{value!r}; give the config.json of this model"
            )


def with_drop_path(config: ModelConfig, settings: Mapping[str, Any], source: str) -> ModelConfig:
    """Return `config`, which was read from weights, with the drop path rate of config.json."""
    backbone = settings.get("backbone_config")
    if not isinstance(backbone, Mapping) or "drop_path_rate" not in backbone:
        return config
    changed = config.backbone.model_dump() | {"drop_path_rate": backbone["drop_path_rate"]}
    return parse(ModelConfig, config.model_dump() | {"backbone": changed}, source)


def loss_settings(loss: LossConfig) -> Settings:
    """Return costs and loss weights; without the number of points if all cells are compared."""
    values = loss.model_dump()
    return {
        theirs: values[ours]
        for theirs, ours in MASK2FORMER_LOSS_KEYS.items()
        if values[ours] != "all"
    }


def loss_of(settings: Mapping[str, Any], default: LossConfig, source: str) -> LossConfig:
    """Return costs and loss weights of a config.json; `default` for keys that it lacks."""
    return TransformersMask2FormerFamily().loss_from_settings(settings, source, default)


def label_settings(labels: Sequence[str]) -> Settings:
    """Return the settings with the class names, given in the order of the logits."""
    return {
        "id2label": {str(index): name for index, name in enumerate(labels)},
        "label2id": {name: index for index, name in enumerate(labels)},
    }


def labels_of(settings: Mapping[str, Any], num_classes: int, source: str) -> list[str] | None:
    """Return class names in the order of the logits; None if a config.json has none.

    Raises:
        CheckpointError: the number of names is not that of the classes of the weights.
    """
    names = settings.get("id2label")
    if not names:
        return None
    indices = [str(index) for index in range(num_classes)]
    if not isinstance(names, Mapping) or set(names) != set(indices):
        raise CheckpointError(
            f"{source}: id2label must have the keys 0 to {num_classes - 1}, one for each class "
            "of the weights"
        )
    labels = [str(names[index]) for index in indices]
    unnamed = [f"LABEL_{index}" for index in range(num_classes)]  # transformers' placeholders
    return None if labels == unnamed else labels


def preprocessor_settings(config: ModelConfig, size: tuple[int, int] | None) -> Settings:
    """Return the content of preprocessor_config.json.

    Args:
        config: its pixel statistics are used.
        size: short and long side at inference, in pixels; None keeps the size of images.
    """
    short, long = size or PUBLISHED_SIZE
    return {
        "image_processor_type": "Mask2FormerImageProcessor",
        "do_resize": size is not None,
        "size": {"shortest_edge": short, "longest_edge": long},
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


def training_info_of(
    preprocessor: Mapping[str, Any], loss: LossConfig, source: str
) -> TrainingInfo:
    """Return the losses with the size of images of a preprocessor_config.json.

    Early versions of transformers wrote `size` as a number, and `max_size`.
    """
    if not preprocessor.get("do_resize", True):
        return TrainingInfo(loss, resize="none")
    size, longest = preprocessor.get("size"), preprocessor.get("max_size")
    if isinstance(size, int):
        size = {"shortest_edge": size}
    if not isinstance(size, Mapping):
        return TrainingInfo(loss)
    sides = {"longest_edge": longest, **size}
    short, long = image_sides(sides, "shortest_edge", "longest_edge", source)
    return TrainingInfo(loss, short, long, resize="other" if short is None else "shortest-edge")


def with_pixel_statistics(
    config: ModelConfig, preprocessor: Mapping[str, Any], source: str
) -> ModelConfig:
    """Return `config` with the pixel statistics of a preprocessor_config.json.

    Statistics are those of values 0..255.

    Raises:
        CheckpointError: mean or standard deviation are not three numbers.
    """
    rescaled = preprocessor.get("do_rescale", True)
    factor = preprocessor.get("rescale_factor", 1 / 255) if rescaled else 1.0
    found: Settings = {}
    normalizes = preprocessor.get("do_normalize", True)
    for ours, theirs, none in (("pixel_mean", "image_mean", 0), ("pixel_std", "image_std", 1)):
        values = preprocessor.get(theirs) if normalizes else (none, none, none)
        if values is None:
            continue
        try:
            red, green, blue = (round(float(value) / factor, 6) for value in values)
        except (TypeError, ValueError, ArithmeticError):
            raise CheckpointError(
                f"{source}: {theirs} = {abbreviate(values)}: give 3 numbers"
            ) from None
        found[ours] = (red, green, blue)
    return parse(ModelConfig, config.model_dump() | found, source)
