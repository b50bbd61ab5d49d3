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
    """What tells one Swin from another; all four can be read from its weights."""

    embed_dim: int
    depths: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int]
    window: int


# As configured in facebookresearch/Mask2Former (configs/coco/*/swin): base and large have the
# window of their pre-training at 384 x 384 pixels. The second is timm's name of the weights.
PUBLISHED: dict[str, tuple[SwinShape, str]] = {
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
    """timm's block, padded to whole windows before it rolls, as the official one.

    timm rolls first, so that its padding stands between the image's opposite borders; wherever a
    side leaves a remainder modulo the window, features near the border differ
    (`SwinTransformerBlock.forward` in facebookresearch/Mask2Former, `backbone/swin.py`).
    """

    def __init__(self, dim: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__(
            dim,
            input_resolution=(window, window),  # of no effect with the two options below
            always_partition=True,
            dynamic_mask=True,
            num_heads=heads,
            window_size=window,
            shift_size=shift,
            drop_path=drop_path,
        )

    def _attn(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same shape; called by timm's `forward`."""
        height, width = x.shape[1:3]
        rows, columns = self.window_size
        padded = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        attended: Tensor = super()._attn(padded)  # type: ignore[no-untyped-call]
        return attended[:, :height, :width]


class SwinStage(nn.Module):
    """Patch merging (but in the first stage), then blocks of which every second one is shifted."""

    def __init__(
        self, index: int, inputs: int, shape: SwinShape, drop_paths: Iterable[float]
    ) -> None:
        super().__init__()
        dim = shape.embed_dim * 2**index
        self.downsample = PatchMerging(inputs, dim) if index else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                PaddedBlock(
                    dim, shape.num_heads[index], shape.window, i % 2 * (shape.window // 2), rate
                )
                for i, rate in enumerate(drop_paths)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.blocks(self.downsample(x))
        return output


class Swin(nn.Module):
    """Images of any size -> features of strides 4, 8, 16, 32, each with a norm of its own.

    `channels` are theirs. Sides that are no multiple of a patch, of two patches to be merged or of
    a window are padded with zeros at the right and the bottom, as the official Swin does.
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
        self.apply(_start)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> four maps (B, C, h, w)."""
        x = self.patch_embed(x)
        features = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)
            features.append(norm(x).permute(0, 3, 1, 2).contiguous())
        return features


def build_swin(config: BackboneConfig) -> Swin:
    """The Swin that `config` describes.

    Raises:
        ConfigError: `name = swin` lacks one of its values, or the values do not fit each other.
    """
    shape = swin_shape(config)
    for stage, heads in enumerate(shape.num_heads):
        width = shape.embed_dim * 2**stage
        if heads < 1 or width % heads:
            raise ConfigError(
                f"model.backbone.num_heads = {list(shape.num_heads)}: stage {stage + 1} has "
                f"{width} channels, which {heads} heads can't share equally"
            )
    model = Swin(shape, config.drop_path)
    if config.pretrained:
        if config.name not in PUBLISHED or shape != PUBLISHED[config.name][0]:
            raise ConfigError(
                f"model.backbone.pretrained: there are ImageNet weights for {', '.join(PUBLISHED)} "
                "as published, not for other widths"
            )
        model.load_state_dict(_timm_weights(PUBLISHED[config.name][1]), strict=False)
    return model


def is_swin(config: BackboneConfig) -> bool:
    """Whether `config` names the official Swin, rather than one of timm's models."""
    return config.name == "swin" or config.name in PUBLISHED


def swin_shape(config: BackboneConfig) -> SwinShape:
    """The published shape with the changes that `config` makes, or the one that it spells out.

    Raises:
        ConfigError: `name = swin` lacks one of its values.
    """
    given = {field.name: getattr(config, field.name) for field in fields(SwinShape)}
    if config.name in PUBLISHED:
        changes = {name: value for name, value in given.items() if value is not None}
        return replace(PUBLISHED[config.name][0], **changes)
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ConfigError(
            f"model.backbone.{missing[0]}: needed with name = {config.name}; or choose one of "
            f"{', '.join(PUBLISHED)}"
        )
    return SwinShape(**given)


def _timm_weights(name: str) -> dict[str, Tensor]:
    """timm's ImageNet weights under our names; the output norms have none."""
    weights = timm.create_model(name, pretrained=True).state_dict()
    return {
        key.replace("layers.", "stages.", 1): tensor
        for key, tensor in weights.items()
        if key.startswith(("patch_embed.", "layers."))
    }


def _start(module: nn.Module) -> None:
    """Normal weights of deviation 0.02 and no biases in linear layers (Swin's and timm's start)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
