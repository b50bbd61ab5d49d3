"""Transformers directories without transformers: round trips, config.json, errors."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mpdiag.checkpoints import load_checkpoint, load_model, save_checkpoint
from mpdiag.checkpoints.convert import convert
from mpdiag.checkpoints.describe import describe
from mpdiag.checkpoints.detectron2_config import TrainingInfo
from mpdiag.checkpoints.transformers_directory import read_transformers, write_transformers
from mpdiag.config import BackboneConfig, LossConfig, ModelConfig, TrainConfig
from mpdiag.errors import CheckpointError, UnsafeCheckpointError
from mpdiag.models import Mask2Former

CLASSES = [
    {"category_id": 3, "name": "cat", "isthing": True},
    {"category_id": 7, "name": "dog", "isthing": True},
    {"category_id": 8, "name": "sky", "isthing": False},
]


def model_with(config: ModelConfig, **changes: Any) -> Mask2Former:
    torch.manual_seed(0)
    return Mask2Former(config.model_copy(update=changes)).eval()


def rewrite_preprocessor(directory: Path, **changes: Any) -> None:
    path = directory / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def model(small_config: ModelConfig) -> Mask2Former:
    """A narrow ResNet-50 with pixel statistics that differ from the published ones."""
    backbone = BackboneConfig(name="resnet50", channels=(8, 8, 16, 16), stem_channels=16)
    return model_with(
        small_config,
        backbone=backbone,
        label_embedding=False,
        pixel_mean=(100.0, 110.5, 120.25),
        pixel_std=(58.0, 57.0, 56.0),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, model: Mask2Former) -> Path:
    path = tmp_path_factory.mktemp("written")
    write_transformers(path, model, classes=CLASSES)
    return path


@pytest.fixture
def directory(tmp_path: Path, written: Path) -> Path:
    """A copy of what is written for the model, to be changed."""
    return Path(shutil.copytree(written, tmp_path / "there"))


def settings_of(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return content


def rewrite(directory: Path, **changes: Any) -> None:
    settings = settings_of(directory) | changes
    (directory / "config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    "backbone",
    [
        BackboneConfig(name="resnet50", channels=(8, 8, 16, 16)),
        BackboneConfig(name="resnet50", channels=(8, 8, 16, 16), norm="batch"),
        BackboneConfig(name="resnet18", channels=(8, 8, 16, 16), stem_channels=8),
        BackboneConfig(
            name="swin", embed_dim=8, depths=(2, 1, 1, 1), num_heads=(1, 2, 2, 4), window_size=3
        ),
    ],
    ids=["frozen", "batch", "basic", "swin"],
)
def test_a_round_trip_is_bit_equal(
    tmp_path: Path, small_config: ModelConfig, backbone: BackboneConfig
) -> None:
    model = model_with(small_config, backbone=backbone, label_embedding=False)
    save_checkpoint(tmp_path / "a.pth", model)
    convert(tmp_path / "a.pth", tmp_path / "there", "transformers")
    convert(tmp_path / "there", tmp_path / "b.pth", "detectron2")
    first, last = (
        torch.load(tmp_path / name, weights_only=True)["model"] for name in ("a.pth", "b.pth")
    )
    assert first.keys() == last.keys()
    for name, tensor in first.items():
        assert torch.equal(last[name], tensor), name
    assert load_model(tmp_path / "there").config.backbone.norm == backbone.norm
    found = sorted(path.name for path in (tmp_path / "there").iterdir())
    assert found == ["config.json", "model.safetensors", "preprocessor_config.json"]


def test_names_and_settings_equal_those_on_the_hub(directory: Path, model: Mask2Former) -> None:
    """Entries of the published checkpoints and of microsoft/resnet-50."""
    state = load_file(directory / "model.safetensors")
    own = model.state_dict()
    encoder, pixel = "model.pixel_level_module.encoder", "model.pixel_level_module.decoder"
    decoder = "model.transformer_module.decoder"
    for theirs, ours in {
        f"{encoder}.embedder.embedder.convolution.weight": "backbone.conv1.weight",
        f"{encoder}.encoder.stages.2.layers.5.layer.1.convolution.weight": (
            "backbone.layer3.5.conv2.weight"
        ),
        f"{encoder}.encoder.stages.0.layers.0.shortcut.normalization.running_var": (
            "backbone.layer1.0.downsample.1.running_var"
        ),
        f"{pixel}.encoder.layers.0.fc1.bias": "pixel_decoder.layers.0.linear1.bias",
        f"{pixel}.adapter_1.0.weight": "pixel_decoder.lateral.conv.weight",
        f"{decoder}.layers.3.cross_attn.in_proj_weight": (
            "decoder.layers.3.cross_attn.in_proj_weight"
        ),
        f"{decoder}.mask_predictor.mask_embedder.2.0.weight": "decoder.mask_embed.layers.2.weight",
        "class_predictor.bias": "decoder.class_embed.bias",
    }.items():
        assert torch.equal(state[theirs], own[ours]), theirs
    stacked = own["decoder.layers.1.self_attn.in_proj_weight"]
    for row, part in enumerate("qkv"):
        values = state[f"{decoder}.layers.1.self_attn.{part}_proj.weight"]
        assert torch.equal(values, stacked[32 * row : 32 * (row + 1)])
    settings = settings_of(directory)
    assert settings["backbone_config"]["hidden_sizes"] == [32, 32, 64, 64]
    assert settings["backbone_config"]["depths"] == [3, 4, 6, 3]
    assert settings["backbone_config"]["embedding_size"] == 16
    assert settings["decoder_layers"] == 5  # the four layers and M^0
    assert settings["id2label"] == {"0": "cat", "1": "dog", "2": "sky"}


def test_names_of_a_swin_and_its_ignored_buffers(tmp_path: Path, small_config: ModelConfig) -> None:
    """Entries and settings of facebook/mask2former-swin-tiny-coco-instance."""
    swin = BackboneConfig(
        name="swin", embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), window_size=3
    )
    model = model_with(small_config, backbone=swin, label_embedding=False)
    write_transformers(tmp_path, model)
    state = load_file(tmp_path / "model.safetensors")
    own = model.state_dict()
    encoder = "model.pixel_level_module.encoder"
    block = f"{encoder}.encoder.layers.2.blocks.0"
    for theirs, ours in {
        f"{encoder}.embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
        f"{encoder}.hidden_states_norms.stage1.bias": "norms.0.bias",
        f"{encoder}.encoder.layers.2.downsample.reduction.weight": (
            "stages.3.downsample.reduction.weight"
        ),
        f"{block}.attention.self.relative_position_bias_table": (
            "stages.2.blocks.0.attn.relative_position_bias_table"
        ),
        f"{block}.attention.output.dense.weight": "stages.2.blocks.0.attn.proj.weight",
        f"{block}.intermediate.dense.bias": "stages.2.blocks.0.mlp.fc1.bias",
    }.items():
        assert torch.equal(state[theirs], own[f"backbone.{ours}"]), theirs
    stacked = own["backbone.stages.2.blocks.0.attn.qkv.weight"]
    assert torch.equal(state[f"{block}.attention.self.key.weight"], stacked[32:64])
    settings = settings_of(tmp_path)["backbone_config"]
    assert (settings["window_size"], settings["num_heads"]) == (3, [1, 2, 2, 4])
    state[f"{block}.attention.self.relative_position_index"] = torch.zeros(9, 9).long()
    save_file(state, tmp_path / "model.safetensors")
    rewrite(tmp_path, backbone_config=settings | {"drop_path_rate": 0.1})
    assert load_model(tmp_path).config.backbone == swin.model_copy(update={"drop_path_rate": 0.1})


def test_settings_that_the_weights_do_not_contain(tmp_path: Path, model: Mask2Former) -> None:
    loss = LossConfig(class_weight=1, mask_weight=20, no_object_weight=0.2, num_points=64)
    write_transformers(tmp_path, model, TrainingInfo(loss, 640, 1000), classes=CLASSES)
    found = read_transformers(tmp_path)
    assert found.config == model.config
    assert found.training_info == TrainingInfo(loss, 640, 1000)
    assert found.classes == CLASSES
    assert found.labels == ["cat", "dog", "sky"]
    assert found.weights.unexpected == []
    write_transformers(tmp_path, model, TrainingInfo(loss, 640, 1000), labels=["a", "b", "c"])
    assert read_transformers(tmp_path).labels == ["a", "b", "c"]
    # Only what transformers writes.
    rewrite(tmp_path, mpdiag=None, id2label={f"{k}": f"LABEL_{k}" for k in range(3)})
    (tmp_path / "preprocessor_config.json").unlink()
    found = read_transformers(tmp_path)
    assert (found.labels, found.classes) == (None, None)
    assert found.training_info is not None and found.training_info.short_side is None
    assert found.config.pixel_mean == ModelConfig().pixel_mean
    assert found.config.backbone.norm == "batch"  # transformers has no other


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": {"shortest_edge": 512, "longest_edge": 900}}, (512, 900)),
        ({"size": 512, "max_size": 900}, (512, 900)),  # of early versions
        ({"do_resize": False}, (None, 1333)),
    ],
)
def test_images_have_the_size_of_the_preprocessor(
    tmp_path: Path, directory: Path, changes: dict[str, Any], expected: tuple[int | None, int]
) -> None:
    rewrite_preprocessor(directory, **changes)
    assert load_checkpoint(directory).image_size == expected
    convert(directory, tmp_path / "model.pth")
    assert load_checkpoint(tmp_path / "model.pth").image_size == expected


def test_a_preprocessor_that_resizes_in_another_way(directory: Path) -> None:
    rewrite_preprocessor(directory, size={"height": 512, "width": 512}, do_normalize=False)
    loaded = load_checkpoint(directory)  # for a conversion or a training
    assert loaded.model.config.pixel_mean == (0, 0, 0)
    assert loaded.model.config.pixel_std == (255, 255, 255)
    with pytest.raises(CheckpointError, match="run it with --engine transformers"):
        _ = loaded.image_size


def test_a_directory_is_a_checkpoint(
    tmp_path: Path, directory: Path, model: Mask2Former, images: list[torch.Tensor]
) -> None:
    loaded = load_model(directory)
    by_file = load_model(directory / "model.safetensors")
    state = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    # torch.compile under DistributedDataParallel
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}
    torch.save(wrapped, directory / "pytorch_model.bin")
    with torch.no_grad():
        expected = model(images).matching.mask_logits
        assert torch.equal(loaded(images).matching.mask_logits, expected)
        assert torch.equal(by_file(images).matching.mask_logits, expected)
        assert torch.equal(load_model(directory)(images).matching.mask_logits, expected)


def test_a_directory_of_shards_is_a_checkpoint(directory: Path, model: Mask2Former) -> None:
    whole = load_checkpoint(directory)
    state = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    names = {name: files[position % 2] for position, name in enumerate(sorted(state))}
    for file in files:
        save_file({name: state[name] for name in state if names[name] == file}, directory / file)
    index = {"metadata": {}, "weight_map": names}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    found = load_checkpoint(directory)
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert found.classes == whole.classes and found.path == directory
    content = b"".join((directory / file).read_bytes() for file in files)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert describe(directory).path == directory
    (directory / files[1]).unlink()
    with pytest.raises(CheckpointError, match=rf"{files[1]}: no such file, but model.saf"):
        load_model(directory)


def test_query_positions_of_an_mp_former_are_written_as_zeros(
    tmp_path: Path,
    small_config: ModelConfig,
    images: list[torch.Tensor],
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = model_with(small_config, query_position=False, label_embedding=True)
    save_checkpoint(tmp_path / "mp.pth", model)
    with caplog.at_level("INFO"):
        convert(tmp_path / "mp.pth", tmp_path / "there", "transformers")
    assert "written as zeros" in caplog.text
    assert "label_enc" in caplog.text
    found = load_model(tmp_path / "there")
    assert found.config.query_position
    assert not found.config.label_embedding
    with torch.no_grad():
        expected, logits = (m(images).matching.mask_logits for m in (model, found))
    assert torch.equal(logits, expected)


def test_a_trained_checkpoint_keeps_its_recipe_and_classes(
    tmp_path: Path, model: Mask2Former
) -> None:
    recipe = TrainConfig(model=model.config, loss=LossConfig(mask_weight=7, num_points="all"))
    own = {"recipe": recipe.model_dump(mode="json"), "classes": CLASSES}
    save_checkpoint(tmp_path / "a.pth", model, mpdiag=own, optimizer={"lr": 1.0})
    convert(tmp_path / "a.pth", tmp_path / "b.pth", "detectron2")
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    assert content.keys() == {"model", "mpdiag"}
    assert content["mpdiag"] == own
    assert load_checkpoint(tmp_path / "b.pth").recipe == recipe
    convert(tmp_path / "a.pth", tmp_path / "there", "transformers")
    found = read_transformers(tmp_path / "there")
    assert (found.recipe, found.classes) == (recipe, CLASSES)
    assert found.training_info is not None and found.training_info.loss == recipe.loss
    preprocessor = json.loads((tmp_path / "there" / "preprocessor_config.json").read_text())
    assert not preprocessor["do_resize"]  # the recipe's short_side is None
    # As if transformers had fine-tuned the model on other classes.
    state = load_file(tmp_path / "there" / "model.safetensors")
    for name in ("class_predictor.weight", "class_predictor.bias"):
        state[name] = state[name][:3]
    save_file(state, tmp_path / "there" / "model.safetensors")
    rewrite(tmp_path / "there", id2label={"0": "a", "1": "b"})
    found = read_transformers(tmp_path / "there")
    assert (found.recipe, found.classes, found.labels) == (None, None, ["a", "b"])


def test_a_directory_of_0_1_opens(tmp_path: Path, model: Mask2Former) -> None:
    """Its recipe has the old names of some keys."""
    recipe = TrainConfig(model=model.config, loss=LossConfig(num_points=64))
    write_transformers(tmp_path, model, recipe=recipe)
    own = settings_of(tmp_path)["mpdiag"]
    for section, old, new in (("model", "heads", "num_heads"), ("loss", "points", "num_points")):
        own["recipe"][section][old] = own["recipe"][section].pop(new)
    rewrite(tmp_path, mpdiag=own)
    assert load_checkpoint(tmp_path).recipe == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "maskformer"}, "model_type = 'maskformer'; mpdiag reads mask2former only"),
        ({"pre_norm": True}, "pre_norm = True, but the weights"),
        ({"num_queries": 100}, "num_queries = 100, but the weights.*with 6"),
        (
            {"backbone_config": {"downsample_in_bottleneck": True}},
            "backbone_config: downsample_in_bottleneck = True",
        ),
        ({"id2label": {"0": "cat"}}, "id2label must have the keys 0 to 2"),
        ({"id2label": 3}, "id2label must have"),
        ({"mask_weight": "much"}, "mask_weight = 'much'"),
    ],
)
def test_settings_that_contradict_the_weights_are_reported(
    directory: Path, change: dict[str, Any], message: str
) -> None:
    rewrite(directory, **change)
    with pytest.raises(Exception, match=rf"config\.json: {message}") as caught:
        read_transformers(directory)
    assert type(caught.value).__module__ == "mpdiag.errors"


def test_a_missing_preprocessor_is_noted(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    read_transformers(directory)
    assert not caplog.messages
    (directory / "preprocessor_config.json").unlink()
    config = read_transformers(directory).config
    assert config.pixel_mean == ModelConfig(num_classes=3).pixel_mean
    (message,) = caplog.messages
    assert "preprocessor_config.json: no such file; images are preprocessed as for" in message
    assert message.endswith("statistics of ImageNet, sides of 800 and at most 1333 pixels")


def test_broken_directories_are_reported(directory: Path) -> None:
    (directory / "preprocessor_config.json").write_text('{"image_mean": [0.5]}')
    with pytest.raises(CheckpointError, match=r"image_mean = \[0.5\]: give 3 numbers"):
        read_transformers(directory)
    (directory / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not a readable JSON file"):
        read_transformers(directory)
    (directory / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        read_transformers(directory)
    (directory / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors or pytorch_model\.bin"):
        read_transformers(directory)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must not be printed",)


def test_weights_that_would_run_code_are_rejected(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "model.safetensors").unlink()
    torch.save({"weight": Harmful()}, directory / "pytorch_model.bin")
    with pytest.raises(UnsafeCheckpointError, match=r"pytorch_model\.bin: refused.*print"):
        read_transformers(directory)
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        read_transformers(directory)
    assert "must not be printed" not in capsys.readouterr().out


def test_missing_and_unexpected_parameters_are_reported(directory: Path) -> None:
    path = directory / "model.safetensors"
    state = load_file(path)
    del state["model.transformer_module.decoder.layers.1.self_attn.k_proj.weight"]
    save_file(state | {"text_encoder.weight": torch.zeros(1)}, path)
    found = read_transformers(directory)
    assert found.weights.unexpected == ["text_encoder.weight"]
    with pytest.raises(
        CheckpointError,
        match=r"1 \(decoder\.layers\.1\.self_attn\.in_proj_weight\) missing, "
        r"1 \(text_encoder\.weight\) left over",
    ):
        load_model(directory)


def test_a_missing_convolution_of_the_backbone_is_reported(directory: Path) -> None:
    path = directory / "model.safetensors"
    state = load_file(path)
    stage = "model.pixel_level_module.encoder.encoder.stages.1.layers.0"
    del state[f"{stage}.layer.2.convolution.weight"]
    save_file(state, path)
    message = r"model\.safetensors: not a complete .* it has no backbone\.layer2\.0\.conv3\.weight"
    with pytest.raises(CheckpointError, match=message):
        read_transformers(directory)


def test_a_destination_is_never_overwritten(
    tmp_path: Path, model: Mask2Former, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a.pth"
    save_checkpoint(source, model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    for destination, to in (("full", "transformers"), ("a.pth", "detectron2")):
        with pytest.raises(CheckpointError, match="exists already"):
            convert(source, tmp_path / destination, to)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in (".", tmp_path / "here"):
        with pytest.raises(CheckpointError, match="is the current directory; give the name of a"):
            convert(source, name, "transformers")
    with pytest.raises(CheckpointError, match=r"a name that ends in \.pth"):
        convert(source, tmp_path / "b.safetensors", "detectron2")
    with pytest.raises(CheckpointError, match=r"a\.pth.x: can't be written"):
        convert(source, source / "x", "transformers")
    (tmp_path / "empty").mkdir()
    convert(source, tmp_path / "empty", "transformers")
    assert (tmp_path / "empty" / "config.json").is_file()


def test_the_destination_names_the_format(tmp_path: Path, model: Mask2Former) -> None:
    save_checkpoint(tmp_path / "a.pth", model)
    assert convert(tmp_path / "a.pth", tmp_path / "hf").joinpath("config.json").is_file()
    assert convert(tmp_path / "hf", tmp_path / "b.pth").is_file()
    for name in ("b.safetensors", "b.pt"):
        with pytest.raises(CheckpointError, match=r"a name that ends in \.pth"):
            convert(tmp_path / "a.pth", tmp_path / name)


def test_a_failed_conversion_writes_nothing(tmp_path: Path, small_config: ModelConfig) -> None:
    backbone = BackboneConfig(name="resnet26", channels=(8, 8, 16, 16))
    for change, message in (
        ({"encoder_points": 2}, "encoder_points = 2: transformers' Mask2Former supports 4"),
        ({"backbone": backbone}, "name = resnet26: can't be written"),
    ):
        model = model_with(small_config, **change)
        recipe = TrainConfig(model=model.config).model_dump(mode="json")
        save_checkpoint(tmp_path / "a.pth", model, mpdiag={"recipe": recipe})
        with pytest.raises(CheckpointError, match=message):
            convert(tmp_path / "a.pth", tmp_path / "there", "transformers")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_settings_are_kept_through_both_formats(tmp_path: Path, small_config: ModelConfig) -> None:
    statistics = {"pixel_mean": (1.0, 2.0, 3.0), "label_embedding": False}
    model = model_with(small_config, **statistics)
    training_info = TrainingInfo(LossConfig(mask_weight=9), 640, 1000)
    (tmp_path / "there").mkdir()
    write_transformers(tmp_path / "there", model, training_info, labels=["a", "b", "c"])
    convert(tmp_path / "there", tmp_path / "a.pth", "detectron2")
    convert(tmp_path / "a.pth", tmp_path / "again", "transformers")
    for name in ("there", "a.pth", "again"):
        found = load_checkpoint(tmp_path / name)
        assert found.model.config == model.config
        assert (found.training_info, found.labels) == (training_info, ["a", "b", "c"])


def test_a_decoder_that_transformers_does_not_support_is_rejected(
    tmp_path: Path, small_config: ModelConfig
) -> None:
    model = model_with(small_config, feature_maps="all-large")
    recipe = TrainConfig(model=model.config).model_dump(mode="json")
    save_checkpoint(tmp_path / "large.pth", model, mpdiag={"recipe": recipe})
    with pytest.raises(CheckpointError, match="stride 8 in all layers"):
        convert(tmp_path / "large.pth", tmp_path / "hf", "transformers")
    assert not (tmp_path / "hf").exists()
    convert(tmp_path / "large.pth", tmp_path / "copy.pth", "detectron2")
    assert load_model(tmp_path / "copy.pth").config.feature_maps == "all-large"
    unmasked = model_with(small_config, masked_attention=False)
    recipe = TrainConfig(model=unmasked.config).model_dump(mode="json")
    save_checkpoint(tmp_path / "unmasked.pth", unmasked, mpdiag={"recipe": recipe})
    with pytest.raises(CheckpointError, match="attends without masks, which transformers"):
        convert(tmp_path / "unmasked.pth", tmp_path / "hf", "transformers")
    assert not load_model(tmp_path / "unmasked.pth").config.masked_attention
