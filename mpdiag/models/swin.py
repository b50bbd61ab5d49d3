"""The Swin backbone of the official repositories, built from timm's blocks."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import timm
import torch.nn.functional as F
from timm.layers.patch_embed import PatchEmbed
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor, nn

from mpdiag.config import BackboneConfig
from mpdiag.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SwinShape:
    """Architecture of a Swin, which can be read from its weights."""

    embed_dim: int
    depths: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int]
    window_size: int


# Shape and timm's name of the weights, as in facebookresearch/Mask2Former (configs/coco/*/swin).
# Base and large use the window size of their pre-training at 384 x 384 pixels.
PUBLISHED_SWINS: dict[str, tuple[SwinShape, str]] = {
    "swin_tiny": (
        SwinShape(96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
        "swin_tiny_patch4_window7_224.ms_in1k",
    ),
    "swin_small": (
        SwinShape(96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
        "swin_small_patch4_window7_224.ms_in1k",
    ),
    "swin_base": (
        SwinShape(128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
        "swin_base_patch4_window12_384.ms_in22k",
    ),
    "swin_large": (
        SwinShape(192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
        "swin_large_patch4_window12_384.ms_in22k",
    ),
}


class PaddedBlock(SwinTransformerBlock):
    """timm's block with padding to whole windows before the cyclic shift, as the official Swin.

    timm pads after the shift, which changes features near the border if a side is no multiple of
    the window size (`SwinTransformerBlock.forward` in `backbone/swin.py` of Mask2Former).
    """

    def __init__(self, dim: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__(
            dim,
            input_resolution=(window, window),  # not used with the two options below
            always_partition=True,
            dynamic_mask=True,
            num_heads=heads,
            window_size=window,
            shift_size=shift,
            drop_path=drop_path,
        )

    def _attn(self, x: Tensor) -> Tensor:
        """Apply window attention to (B, H, W, C); called by timm's `forward`."""
        height, width = x.shape[1:3]
        rows, columns = self.window_size
        padded = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        attended: Tensor = super()._attn(padded)  # type: ignore[no-untyped-call]
        return attended[:, :height, :width]


class SwinStage(nn.Module):
    """Patch merging (except in the first stage) and blocks, every second with shifted windows."""

    def __init__(
        self, index: int, inputs: int, shape: SwinShape, drop_paths: Iterable[float]
    ) -> None:
        super().__init__()
        dim = shape.embed_dim * 2**index
        self.downsample = PatchMerging(inputs, dim) if index else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                PaddedBlock(
                    dim,
                    shape.num_heads[index],
                    shape.window_size,
                    i % 2 * (shape.window_size // 2),
                    rate,
                )
                for i, rate in enumerate(drop_paths)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.blocks(self.downsample(x))
        return output


class Swin(nn.Module):
    """Swin with features of strides 4, 8, 16 and 32, each followed by its own norm.

    Images of any size are padded with zeros at the right and bottom where patches, patch merging
    and windows need it, as the official Swin does. `channels` has the width of each feature.
    """

    def __init__(self, shape: SwinShape, drop_path: float = 0.0) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(
            img_size=None,
            patch_size=4,
            embed_dim=shape.embed_dim,
            norm_layer=nn.LayerNorm,
            output_fmt="NHWC",
            dynamic_img_pad=True,
        )
        self.channels = [shape.embed_dim * 2**index for index in range(4)]
        total = sum(shape.depths)
        rates = [drop_path * i / max(total - 1, 1) for i in range(total)]
        self.stages = nn.ModuleList()
        for index, depth in enumerate(shape.depths):
            inputs = self.channels[max(index - 1, 0)]
            self.stages.append(SwinStage(index, inputs, shape, rates[:depth]))
            rates = rates[depth:]
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.channels)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute four feature maps (B, C, h, w) of (B, 3, H, W) images."""
        x = self.patch_embed(x)
        features = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)
            features.append(norm(x).permute(0, 3, 1, 2).contiguous())
        return features


def build_swin(config: BackboneConfig) -> Swin:
    """Build the Swin of a configuration.

    Raises:
        ConfigError: `name = swin` lacks a setting, or heads do not divide the channels.
    """
    shape = swin_shape(config)
    for stage, heads in enumerate(shape.num_heads):
        width = shape.embed_dim * 2**stage
        if heads < 1 or width % heads:
            raise ConfigError(
                f"model.backbone.num_heads = {list(shape.num_heads)}: stage {stage + 1} has "
                f"{width} channels, which is no multiple of {heads} heads"
            )
    model = Swin(shape, config.drop_path_rate)
    if config.pretrained:
        if config.name not in PUBLISHED_SWINS or shape != PUBLISHED_SWINS[config.name][0]:
            raise ConfigError(
                "model.backbone.pretrained = true: ImageNet weights are only available for the "
                f"published {', '.join(PUBLISHED_SWINS)}"
            )
        model.load_state_dict(_timm_weights(PUBLISHED_SWINS[config.name][1]), strict=False)
    return model


def is_swin(config: BackboneConfig) -> bool:
    """Return whether `config` selects the official Swin instead of a timm model."""
    return config.name == "swin" or config.name in PUBLISHED_SWINS


def swin_shape(config: BackboneConfig) -> SwinShape:
    """Return the shape of a configured Swin: the published one with the settings given.

    Raises:
        ConfigError: `name = swin` lacks a setting.
    """
    given = {field.name: getattr(config, field.name) for field in fields(SwinShape)}
    if config.name in PUBLISHED_SWINS:
        changes = {name: value for name, value in given.items() if value is not None}
        return replace(PUBLISHED_SWINS[config.name][0], **changes)
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ConfigError(
            f"model.backbone.{missing[0]}: required for name = {config.name}; set it or use one of "
            f"{', '.join(PUBLISHED_SWINS)}"
        )
    return SwinShape(**given)


def weights_missing(name: str, error: OSError) -> ConfigError:
    """Return the error for ImageNet weights that timm cannot download."""
    return ConfigError(
        f"model.backbone.name = {name}: its ImageNet weights cannot be downloaded "
        f"({type(error).__name__}); set model.backbone.pretrained=false and init=FILE"
    )


def _timm_weights(name: str) -> dict[str, Tensor]:
    """Load timm's ImageNet weights with the names of `Swin`; they have no output norms."""
    try:
        weights = timm.create_model(name, pretrained=True).state_dict()
    except OSError as error:
        raise weights_missing(name, error) from None
    return {
        key.replace("layers.", "stages.", 1): tensor
        for key, tensor in weights.items()
        if key.startswith(("patch_embed.", "layers."))
    }


def _init_weights(module: nn.Module) -> None:
    """Initialise linear layers as Swin and timm: normal weights of deviation 0.02, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
