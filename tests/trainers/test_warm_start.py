"""What a training starts from: ImageNet backbones, checkpoints, and refusals."""

from pathlib import Path

import pytest
import torch
import torchvision

from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.errors import ConfigError
from mpdiag.models import Mask2Former
from trainers.warm_start import load_initial


def small(backbone: BackboneConfig) -> Mask2Former:
    torch.manual_seed(0)
    return Mask2Former(
        ModelConfig(
            num_classes=2, backbone=backbone, encoder_layers=1, decoder_layers=1, num_queries=3
        )
    )


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_an_imagenet_backbone_fills_the_backbone_alone(tmp_path: Path, norm: str) -> None:
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    model = small(BackboneConfig(name="resnet18", norm=norm))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    load_initial(model, str(tmp_path / "resnet18.pth"))
    for name, tensor in model.state_dict().items():
        if name.startswith("backbone."):
            assert torch.equal(tensor, theirs.state_dict()[name.removeprefix("backbone.")])
        else:
            assert torch.equal(tensor, before[name])


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "resnet34.pth")
    model = small(BackboneConfig(name="resnet18"))
    with pytest.raises(ConfigError, match=r"init = .*backbone\.layer1\.2.* does not exist"):
        load_initial(model, str(tmp_path / "resnet34.pth"))
    model = small(BackboneConfig(name="resnet18", channels=(8, 8, 16, 16)))
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ConfigError, match=r"backbone\.layer1\.0\..* is \(64, .* has \(8, "):
        load_initial(model, str(tmp_path / "resnet18.pth"))
    torch.save({"backbone.conv1.weight": torch.zeros(1), "rpn.x": torch.zeros(1)}, tmp_path / "x")
    with pytest.raises(ConfigError, match=r"rpn\.x belongs to another model"):
        load_initial(model, str(tmp_path / "x"))
