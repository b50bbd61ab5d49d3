"""timm's backbones, and the official Swin compared with timm's."""

from itertools import pairwise
from typing import Any

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor

from mpdiag.config import BackboneConfig
from mpdiag.errors import ConfigError
from mpdiag.models.backbones import build_backbone
from mpdiag.models.swin import PUBLISHED_SWINS, Swin, SwinShape

SMALL = SwinShape(embed_dim=8, depths=(1, 2, 2, 1), num_heads=(1, 2, 2, 4), window_size=2)


def test_timm_backbone_of_another_family() -> None:
    backbone, channels = build_backbone(BackboneConfig(name="convnext_atto", norm="batch"))
    maps = backbone(torch.rand(1, 3, 64, 64))
    assert [x.shape[1] for x in maps] == channels
    assert [x.shape[-1] for x in maps] == [16, 8, 4, 2]


def test_narrow_stem() -> None:
    config = BackboneConfig(name="resnet50", channels=(8, 16, 32, 64), stem_channels=16)
    backbone, channels = build_backbone(config)
    assert channels == [32, 64, 128, 256]
    assert [x.shape[1] for x in backbone(torch.rand(1, 3, 64, 64))] == channels
    full, _ = build_backbone(BackboneConfig(name="resnet18", norm="batch"))
    reference = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4))
    assert full.state_dict().keys() == reference.state_dict().keys()


@pytest.mark.parametrize(
    "config, message",
    [
        (BackboneConfig(name="resnet999"), "model.backbone.name = resnet999"),
        (BackboneConfig(name="vit_tiny_patch16_224"), "4, 8, 16 and 32 are needed"),
        (BackboneConfig(name="convnext_atto", stem_channels=8), "only ResNets"),
        (BackboneConfig(name="resnet18d", stem_channels=8), "only ResNets with one convolution"),
        (BackboneConfig(name="swin_tiny", channels=(8, 8, 8, 8)), "channels = .*only ResNets"),
        (BackboneConfig(name="resnet50", window_size=7), "window_size = 7: .*only swin, swin_tiny"),
        (
            BackboneConfig(name="swin", embed_dim=8, window_size=7),
            "depths: required for name",
        ),
        (
            BackboneConfig(name="swin_tiny", num_heads=(5, 6, 12, 24)),
            "96 channels.* no multiple of 5",
        ),
        (
            BackboneConfig(name="swin_tiny", window_size=5, pretrained=True),
            "only available for",
        ),
    ],
)
def test_invalid_backbones(config: BackboneConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_backbone(config)


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny"])
def test_weights_that_cannot_be_downloaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise OSError("no network")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ConfigError, match=r"cannot be downloaded .*pretrained=false and init"):
        build_backbone(BackboneConfig(name=name, pretrained=True))


def test_swin_equals_timm_without_padding() -> None:
    """At 64 pixels every map consists of whole windows of 2, so nothing is padded."""
    torch.manual_seed(0)
    reference = SwinTransformer(
        img_size=64,
        embed_dim=8,
        depths=SMALL.depths,
        num_heads=SMALL.num_heads,
        window_size=2,
        num_classes=0,
        always_partition=True,
    ).eval()
    ours = Swin(SMALL).eval()
    weights = {
        name.replace("layers.", "stages."): x
        for name, x in reference.state_dict().items()
        if not name.startswith("norm.")
    }
    assert ours.load_state_dict(weights, strict=False).unexpected_keys == []
    image = torch.randn(2, 3, 64, 64)
    expected = reference.forward_intermediates(image, intermediates_only=True)
    for theirs, found in zip(expected, ours(image), strict=True):
        normed = torch.nn.functional.layer_norm(theirs.permute(0, 2, 3, 1), theirs.shape[1:2])
        torch.testing.assert_close(found, normed.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (33, 70), (5, 1)])
def test_swin_accepts_any_image_size(size: tuple[int, int]) -> None:
    maps = Swin(SMALL)(torch.rand(1, 3, *size))
    for stride, width, found in zip((4, 8, 16, 32), (8, 16, 32, 64), maps, strict=True):
        assert found.shape == (1, width, -(-size[0] // stride), -(-size[1] // stride))


def test_padding_does_not_connect_opposite_borders() -> None:
    """In timm, which shifts before it pads, the left border depends on the right one."""
    torch.manual_seed(0)
    model = Swin(SwinShape(8, (2, 1, 1, 1), (1, 1, 1, 1), window_size=4)).eval()
    for table in (x for name, x in model.named_parameters() if "bias_table" in name):
        torch.nn.init.normal_(table)
    image = torch.randn(1, 3, 4, 36)  # 9 patches in a row: a remainder of 1

    def first_patches(image: Tensor) -> Tensor:
        with torch.no_grad():
            return model(image)[0][..., 0]

    changed = image.clone()
    changed[..., -4:] = torch.randn(4)
    torch.testing.assert_close(first_patches(changed), first_patches(image), rtol=0, atol=0)


@pytest.mark.parametrize("name", PUBLISHED_SWINS)
def test_published_swins_have_the_parameters_of_timm(name: str) -> None:
    """The official Swin has three more output norms than timm, and no classifier."""
    with torch.device("meta"):
        ours, channels = build_backbone(BackboneConfig(name=name))
        reference = timm.create_model(PUBLISHED_SWINS[name][1].split(".")[0], num_classes=0)
    sizes = {k.replace("layers.", "stages."): x.shape for k, x in reference.named_parameters()}
    for kind in ("weight", "bias"):
        sizes[f"norms.3.{kind}"] = sizes.pop(f"norm.{kind}")
        sizes |= {f"norms.{i}.{kind}": torch.Size([channels[i]]) for i in range(3)}
    assert {k: x.shape for k, x in ours.named_parameters()} == sizes
    assert all(b == 2 * a for a, b in pairwise(channels))


def test_drop_path_rate_increases_with_depth() -> None:
    swin, _ = build_backbone(BackboneConfig(name="swin_tiny", drop_path_rate=0.22))
    rates = [
        getattr(block.drop_path1, "drop_prob", 0.0)
        for stage in swin.stages
        for block in stage.blocks
    ]
    assert rates == pytest.approx([0.02 * i for i in range(12)])
