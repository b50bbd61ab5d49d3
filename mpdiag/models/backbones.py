"""Backbones with features of strides 4, 8, 16 and 32: timm's models and the official Swin."""

from functools import cache
from typing import Any

import timm
import torch
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import nn

from mpdiag.config import BackboneConfig
from mpdiag.errors import ConfigError
from mpdiag.models.swin import PUBLISHED_SWINS, build_swin, is_swin, weights_missing
from mpdiag.printable import printable


def build_backbone(config: BackboneConfig) -> tuple[nn.Module, list[int]]:
    """Return a module (B, 3, H, W) -> four feature maps, and their channels.

    Raises:
        ConfigError: timm has no such model, its features lack one of the strides, or a setting
            belongs to another kind of backbone.
    """
    if is_swin(config):
        _reject_settings(config, ("channels", "stem_channels"), "ResNets")
        swin = build_swin(config)
        return swin, swin.channels
    _reject_settings(
        config,
        ("embed_dim", "depths", "num_heads", "window_size"),
        ", ".join(("swin", *PUBLISHED_SWINS)),
    )
    strides = _feature_strides(config.name)
    if not {4, 8, 16, 32} <= set(strides):
        raise ConfigError(
            f"model.backbone.name = {config.name}: its features have strides {strides}, "
            "but 4, 8, 16 and 32 are needed"
        )
    options: dict[str, Any] = {"pretrained": config.pretrained}
    if config.channels is not None:
        options["channels"] = config.channels
    backbone = _create(
        config.name, out_indices=[strides.index(x) for x in (4, 8, 16, 32)], **options
    )
    if config.stem_channels != 64:
        _narrow_stem(backbone, config)
    if config.norm == "frozen":
        backbone = freeze_batch_norm_2d(backbone)
    return backbone, backbone.feature_info.channels()


def has_depthwise_convolutions(backbone: nn.Module) -> bool:
    """Return whether a backbone has convolutions of each channel by itself, as EfficientNets."""
    convolutions = (module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    return any(1 < module.in_channels == module.groups for module in convolutions)


@cache
def _feature_strides(name: str) -> list[int]:
    """Return the strides of all features of a timm model."""
    with torch.device("meta"):  # without memory
        strides: list[int] = _create(name).feature_info.reduction()
    return strides


def _create(name: str, **options: Any) -> Any:
    """Create a timm model with `features_only`.

    Only names in timm's registry are accepted: timm would download `hf-hub:...` and read
    `local-dir:...`.
    """
    if not timm.is_model(name):
        raise ConfigError(
            f"model.backbone.name = {printable(name, 60)}: unknown model; give a name of "
            "timm.list_models() or a Swin"
        )
    try:
        return timm.create_model(name, features_only=True, **options)
    except OSError as error:
        raise weights_missing(name, error) from None
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"model.backbone.name = {name}: {error}") from None


def _narrow_stem(backbone: Any, config: BackboneConfig) -> None:
    """Change the width of a ResNet's stem, which is 64 in timm (STEM_OUT_CHANNELS)."""
    stem = getattr(backbone, "conv1", None)
    if not (config.name.startswith("resnet") and isinstance(stem, nn.Conv2d)):
        _reject_settings(config, ("stem_channels",), "ResNets with one convolution as stem")
    width = config.stem_channels
    backbone.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    backbone.bn1 = nn.BatchNorm2d(width)
    block = backbone.layer1[0]
    block.conv1 = nn.Conv2d(
        width, block.conv1.out_channels, block.conv1.kernel_size, padding=block.conv1.padding,
        bias=False,
    )  # fmt: skip
    outputs = block.conv3.out_channels if hasattr(block, "conv3") else block.conv2.out_channels
    block.downsample = None
    if width != outputs:
        block.downsample = nn.Sequential(
            nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )
    for module in (backbone.conv1, block.conv1):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _reject_settings(config: BackboneConfig, names: tuple[str, ...], owners: str) -> None:
    """Raise a ConfigError if one of these settings is given; only `owners` have them."""
    for name in names:
        value = getattr(config, name)
        if value != BackboneConfig.model_fields[name].default:
            raise ConfigError(
                f"model.backbone.{name} = {value}: {config.name} has no such setting, only {owners}"
            )
