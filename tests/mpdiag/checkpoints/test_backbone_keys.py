"""ImageNet backbones of four libraries give the features of the library."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from mpdiag.checkpoints import read_weights
from mpdiag.config import BackboneConfig
from mpdiag.errors import CheckpointError
from mpdiag.models.backbones import build_backbone

SWIN = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4)}


def jitter(model: nn.Module) -> nn.Module:
    """Make the values of every norm, bias and average unique, so that a mix-up is noticed."""
    generator = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.1)
    return model.eval()


def features(config: BackboneConfig, path: Path, **options: Any) -> list[Tensor]:
    backbone, _ = build_backbone(config)
    weights = read_weights(path, **options).weights
    found = backbone.load_state_dict(
        {name.removeprefix("backbone."): tensor for name, tensor in weights.items()}, strict=False
    )
    assert all(name.startswith("norms.") for name in found.missing_keys), found
    assert all(name.endswith("num_batches_tracked") for name in found.unexpected_keys), found
    maps: list[Tensor] = backbone.eval()(image())
    return maps


def image() -> Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def detectron2_name(name: str) -> str:
    """Rename as detectron2's tools/convert-torchvision-to-d2.py does."""
    if "layer" not in name:
        name = f"stem.{name}"
    for stage in range(1, 5):
        name = name.replace(f"layer{stage}", f"res{stage + 1}")
    for index in range(1, 4):
        name = name.replace(f"bn{index}", f"conv{index}.norm")
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


@pytest.mark.parametrize("library", ["torchvision", "detectron2"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets(tmp_path: Path, library: str, name: str) -> None:
    torch.manual_seed(0)
    theirs = jitter(torchvision.models.get_model(name))
    path = tmp_path / "backbone"
    if library == "torchvision":
        torch.save(theirs.state_dict(), path)
    else:
        model = {detectron2_name(k): x.numpy() for k, x in theirs.state_dict().items()}
        content = {"model": model, "__author__": "torchvision", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(content, protocol=2))
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image()))))
    for stage, found in enumerate(features(BackboneConfig(name=name), path), start=1):
        x = getattr(theirs, f"layer{stage}")(x)
        torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4 * x.std().item())


def official_swin(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's entries to those of microsoft/Swin-Transformer, and add derived buffers."""
    renamed = {}
    for name, tensor in state.items():
        if "downsample" in name:
            stage = int(name.split(".")[1])
            name = name.replace(f"layers.{stage}", f"layers.{stage - 1}")
        renamed[name] = tensor
    renamed["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(4, 4)
    renamed["layers.2.blocks.1.attn_mask"] = torch.zeros(4, 4, 4)
    return renamed


@pytest.mark.parametrize("library", ["timm", "Swin-Transformer", "detectron2"])
def test_swins(tmp_path: Path, library: str) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(
        "swin_tiny_patch4_window7_224", window_size=2, img_size=64, always_partition=True, **SWIN
    )
    state = jitter(theirs).state_dict()
    path = tmp_path / "backbone.pth"
    if library == "timm":
        torch.save(state, path)
    elif library == "Swin-Transformer":
        torch.save({"model": official_swin(state)}, path)
    else:
        content = {"model": official_swin(state), "__author__": "third_party"}
        path.write_bytes(pickle.dumps(content))
    found = features(BackboneConfig(name="swin", window_size=2, **SWIN), path)
    expected = theirs.forward_intermediates(image(), intermediates_only=True)
    for ours, x in zip(found, expected, strict=True):
        x = nn.functional.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)
        torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_other_timm_models_are_read_by_the_names_of_their_entries(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = jitter(timm.create_model("convnext_atto"))
    path = tmp_path / "convnext.pth"
    torch.save(theirs.state_dict(), path)
    config = BackboneConfig(name="convnext_atto")
    wanted = {f"backbone.{name}" for name in build_backbone(config)[0].state_dict()}
    expected = theirs.forward_intermediates(image(), intermediates_only=True)
    for ours, x in zip(features(config, path, backbone=wanted), expected, strict=True):
        torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)
    with pytest.raises(CheckpointError, match="not a checkpoint of Mask2Former"):
        read_weights(path)


@pytest.mark.parametrize(
    "names, message",
    [
        (["res2_0_branch2a_w", "conv1_w"], "a ResNet of Caffe2"),
        (["stem.conv1.weight", "roi_heads.weight"], "roi_heads.weight is not an entry"),
        (["layer1.0.conv1.weight", "decode_head.weight"], "decode_head.weight is not an entry"),
        (
            ["patch_embed.proj.weight", "a.relative_position_bias_table", "absolute_pos_embed"],
            "is not an entry",
        ),
    ],
)
def test_unknown_entries_are_reported(tmp_path: Path, names: list[str], message: str) -> None:
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / "x.pth")
