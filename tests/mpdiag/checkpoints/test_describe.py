"""Descriptions of checkpoints (`mpdiag info`)."""

from pathlib import Path

import pytest
import torch
import torchvision

from mpdiag.checkpoints import save_checkpoint
from mpdiag.checkpoints.describe import describe
from mpdiag.config import BackboneConfig, ModelConfig, TrainConfig
from mpdiag.errors import CheckpointError
from mpdiag.models import Mask2Former


def test_checkpoint(tmp_path: Path, small_model: Mask2Former) -> None:
    path = tmp_path / "model.pth"
    save_checkpoint(path, small_model, iteration=12)
    found = describe(path)
    assert (found.format, found.family) == (
        "pickle with official (detectron2) names", "Mask2Former, piloted"
    )  # fmt: skip
    assert found.architecture["backbone"] == "resnet18"
    assert found.architecture["queries"] == "6"
    assert found.trained_with == {"iteration": "12", "no-object weight": "0.1"}
    for part, count in found.parameters.items():
        module = small_model.get_submodule(part.replace(" ", "_"))
        assert count == sum(x.numel() for x in module.parameters())
    assert found.rows()[-1] == ("all parts", f"{sum(found.parameters.values()):,} parameters")


def test_families_and_recipe(tmp_path: Path, small_config: ModelConfig) -> None:
    path = tmp_path / "model.pth"
    config = small_config.model_copy(
        update={
            "query_position": False,
            "backbone": BackboneConfig(name="swin_tiny", embed_dim=12, window_size=3),
        }
    )
    save_checkpoint(path, Mask2Former(config))
    found = describe(path)
    assert found.family == "MP-Former"
    assert found.architecture["backbone blocks"] == "2-2-6-2, with 3-6-12-24 heads"
    recipe = TrainConfig(model=config, method="piloted").model_dump(mode="json")
    save_checkpoint(path, Mask2Former(config), mpdiag={"recipe": recipe})
    own = describe(path)
    assert own.trained_with["method"] == "piloted"
    assert own.trained_with["costs"] == "class 2, mask 5, dice 5"
    assert own.parameters == found.parameters
    assert own.architecture["backbone window"] == "3"


def test_imagenet_backbone(tmp_path: Path) -> None:
    backbone = torchvision.models.resnet50()
    torch.save(backbone.state_dict(), tmp_path / "R-50.pth")
    found = describe(tmp_path / "R-50.pth")
    assert (found.family, found.architecture["backbone"]) == ("backbone", "resnet50")
    classifier = sum(x.numel() for x in backbone.fc.parameters())
    expected = sum(x.numel() for x in backbone.parameters()) - classifier
    assert found.parameters == {"backbone": expected}


def test_checkpoint_that_does_not_fit_is_rejected(tmp_path: Path, small_model: Mask2Former) -> None:
    path = tmp_path / "model.pth"
    save_checkpoint(path, small_model)
    content = torch.load(path, weights_only=True)
    del content["model"]["sem_seg_head.predictor.query_embed.weight"]
    content["model"]["sem_seg_head.predictor.decoder_norm.weight2"] = torch.zeros(1)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"1 \(.*weight2\) left over"):
        describe(path)
