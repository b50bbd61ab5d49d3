"""Reading and writing checkpoints: official keys, strict loading, and untrusted files."""

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from mpdiag.checkpoints import load_checkpoint, load_model, read_weights, save_checkpoint
from mpdiag.checkpoints.architecture import backbone_config_of, model_config_of
from mpdiag.checkpoints.official_keys import from_official, to_official
from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.errors import CheckpointError, UnsafeCheckpointError
from mpdiag.models import Mask2Former
from mpdiag.models.backbones import build_backbone
from mpdiag.models.swin import PUBLISHED_SWINS, swin_shape


def test_keys_translate_both_ways(small_model: Mask2Former) -> None:
    for name in small_model.state_dict():
        assert from_official(to_official(name)) == name
    assert from_official("sem_seg_head.predictor.label_enc.weight") == "decoder.label_embed.weight"
    assert from_official("roi_heads.box_head.fc1.weight") is None


def test_the_official_swin_merges_patches_one_stage_earlier() -> None:
    pairs = {
        "backbone.patch_embed.norm.bias": "backbone.patch_embed.norm.bias",
        "backbone.stages.1.downsample.norm.weight": "backbone.layers.0.downsample.norm.weight",
        "backbone.stages.2.blocks.17.attn.qkv.bias": "backbone.layers.2.blocks.17.attn.qkv.bias",
        "backbone.norms.3.bias": "backbone.norm3.bias",
    }
    assert {ours: to_official(ours) for ours in pairs} == pairs
    assert {from_official(theirs): theirs for theirs in pairs.values()} == pairs


def write(path: Path, model: Mask2Former) -> None:
    """Write the format of the suffix: .pth, .safetensors, or the .pkl of detectron2's model zoo."""
    state = {to_official(name): tensor for name, tensor in model.state_dict().items()}
    if path.suffix == ".pth":
        save_checkpoint(path, model)
    elif path.suffix == ".safetensors":
        save_file(state, path)
    else:
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        content = {"model": arrays, "__author__": "Ours", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "pkl"])
def test_a_checkpoint_needs_no_config(
    tmp_path: Path, small_model: Mask2Former, suffix: str
) -> None:
    path = tmp_path / f"model.{suffix}"
    write(path, small_model)
    loaded = load_model(path)
    # The weights do not give the heads of the decoder; those of the pixel decoder are used.
    assert loaded.config == small_model.config
    for name, tensor in small_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert not loaded.training


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101"])
def test_published_resnets_are_recognised(name: str) -> None:
    with torch.device("meta"):
        config = ModelConfig(
            num_classes=5, backbone=BackboneConfig(name=name), encoder_layers=1, decoder_layers=1
        )
    widths = (64, 128, 256, 512)
    found = model_config_of(Mask2Former(config).state_dict(), "here")
    assert found == config.model_copy(
        update={"backbone": BackboneConfig(name=name, channels=widths)}
    )


SWIN = BackboneConfig(
    name="swin", embed_dim=6, depths=(1, 2, 3, 1), num_heads=(1, 2, 3, 6), window_size=5
)


def test_any_swin_is_recognised_and_saved_with_its_position_index(
    tmp_path: Path, small_config: ModelConfig
) -> None:
    model = Mask2Former(small_config.model_copy(update={"backbone": SWIN}))
    path = tmp_path / "model.pth"
    save_checkpoint(path, model)
    loaded = load_model(path)
    assert loaded.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    saved = torch.load(path, weights_only=True)
    key = "backbone.layers.2.blocks.1.attn.relative_position_index"
    assert saved["model"][key][0, :6].tolist() == [40, 39, 38, 37, 36, 31]  # by hand: 9 x 9 offsets
    saved["model"][key][0, 0] = 0
    torch.save(saved, path)
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.relative_position_index is not"):
        load_model(path)


@pytest.mark.parametrize("name", PUBLISHED_SWINS)
def test_published_swins_are_recognised(name: str) -> None:
    with torch.device("meta"):
        backbone, _ = build_backbone(BackboneConfig(name=name))
    weights = {f"backbone.{key}": tensor for key, tensor in backbone.state_dict().items()}
    found = backbone_config_of(weights, "here")
    assert found.name == name
    assert swin_shape(found) == PUBLISHED_SWINS[name][0]


def test_the_first_version_of_the_official_names(tmp_path: Path, small_model: Mask2Former) -> None:
    """Before version 2 names lack `pixel_decoder`, and the pixel statistics are saved."""
    state = {to_official(name): tensor for name, tensor in small_model.state_dict().items()}
    old = {
        name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.").replace(
            "query_feat", "static_query"
        ): tensor
        for name, tensor in state.items()
    }
    assert len(old.keys() - state.keys()) > 20
    old["pixel_mean"] = torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    old["pixel_std"] = torch.ones(3, 1, 1)
    old["criterion.empty_weight"] = torch.tensor([1.0, 1.0, 1.0, 0.25])
    path = tmp_path / "old.pth"
    torch.save({"model": {f"module.{name}": tensor for name, tensor in old.items()}}, path)
    loaded = load_checkpoint(path)
    assert loaded.model.config.pixel_mean == (1.0, 2.0, 3.0)
    assert loaded.training_info.loss.no_object_weight == 0.25
    for name, tensor in small_model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
    name = "sem_seg_head.pixel_decoder.mask_features.bias"
    torch.save({"model": old | {name: state[name]}}, path)
    with pytest.raises(CheckpointError, match=rf"none missing, 1 \({name}\) left over"):
        load_model(path)


@pytest.mark.parametrize("name", ["resnet18", "swin"])
def test_no_random_values_are_drawn_for_weights_that_are_loaded(
    tmp_path: Path, small_config: ModelConfig, name: Any
) -> None:
    sizes = {"resnet18": {"channels": (8, 8, 16, 16)}, "swin": {"embed_dim": 8, "window_size": 3,
             "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}}[name]  # fmt: skip
    backbone = BackboneConfig(name=name, **sizes)
    model = Mask2Former(small_config.model_copy(update={"backbone": backbone}))
    save_checkpoint(tmp_path / "model.pth", model)
    before = torch.get_rng_state()
    loaded = load_model(tmp_path / "model.pth")
    assert torch.equal(torch.get_rng_state(), before)
    for of in (Mask2Former.named_parameters, Mask2Former.named_buffers):
        for (key, found), (_, expected) in zip(of(loaded), of(model), strict=True):
            assert torch.equal(found, expected), key


def test_a_training_checkpoint_of_detectron2(tmp_path: Path, small_model: Mask2Former) -> None:
    """It has the state of the optimizer, and metrics of hooks as numpy numbers."""
    optimizer = torch.optim.AdamW(small_model.parameters())
    path = tmp_path / "model_0004999.pth"
    save_checkpoint(
        path,
        small_model,
        optimizer=optimizer.state_dict(),
        scheduler={"base_lrs": [1e-4], "last_epoch": 4999},
        iteration=4999,
        trainer={"hooks": {"best": np.float64(43.7)}},
    )
    found = read_weights(path)
    assert found.extra["trainer"] == {"hooks": {"best": 43.7}}
    assert load_model(path).config == small_model.config


def test_a_backbone_is_not_a_whole_model(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "R-18.pth")
    with pytest.raises(CheckpointError, match=r"R-18\.pth: not a complete Mask2Former model"):
        load_model(tmp_path / "R-18.pth")


def test_a_saved_file_contains_tensors_and_plain_containers(
    tmp_path: Path, small_model: Mask2Former
) -> None:
    path = tmp_path / "model.pth"
    save_checkpoint(path, small_model, iteration=3)
    content = torch.load(path, weights_only=True)
    assert content["iteration"] == 3
    assert content["model"]["criterion.empty_weight"].tolist() == pytest.approx([1, 1, 1, 0.1])
    assert not list(tmp_path.glob("*.tmp"))


class HeadThatRenames(torch.nn.Module):
    """Renames entries of version 1 to those of its pixel decoder, like the official head."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.pixel_decoder = torch.nn.ModuleDict({"mask_features": torch.nn.Conv2d(32, 16, 1)})

    def _load_from_state_dict(self, state, prefix, metadata, *rest) -> None:
        if metadata.get("version", 1) < 2:
            for name in [x for x in state if x.startswith(prefix)]:
                state[name.replace(prefix, f"{prefix}pixel_decoder.")] = state.pop(name)


def test_a_saved_file_has_the_version_of_its_names(
    tmp_path: Path, small_model: Mask2Former
) -> None:
    save_checkpoint(tmp_path / "model.pth", small_model)
    reader = torch.nn.ModuleDict({"sem_seg_head": HeadThatRenames()})
    reader.load_state_dict(
        torch.load(tmp_path / "model.pth", weights_only=True)["model"], strict=False
    )
    found = reader.state_dict()["sem_seg_head.pixel_decoder.mask_features.weight"]
    assert torch.equal(found, small_model.pixel_decoder.mask_features.weight)


def test_the_newest_model_of_a_training_directory_is_read(
    tmp_path: Path, small_model: Mask2Former
) -> None:
    save_checkpoint(tmp_path / "last.pth", small_model)
    assert read_weights(tmp_path).path.name == "last.pth"
    save_checkpoint(tmp_path / "model_final.pth", small_model)
    assert load_checkpoint(tmp_path).path.name == "model_final.pth"


def averaged(model: Mask2Former) -> dict[str, torch.Tensor]:
    return AveragedModel(model).state_dict()


def with_prefix(prefix: str, model: Mask2Former) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "wrapped",
    [
        averaged,
        partial(with_prefix, "module._orig_mod."),  # torch.compile under DistributedDataParallel
        lambda model: with_prefix("model.", model) | {"criterion.empty_weight": torch.ones(4)},
    ],
    ids=["averaged", "compiled", "lightning"],
)
def test_the_names_of_modules_around_the_model_are_ignored(
    tmp_path: Path, small_model: Mask2Former, wrapped: Callable[[Mask2Former], Any]
) -> None:
    torch.save({"state_dict": wrapped(small_model)}, tmp_path / "epoch.ckpt")
    loaded = load_model(tmp_path / "epoch.ckpt")
    for name, tensor in small_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must not be printed",)


def test_a_checkpoint_that_would_run_code_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "harmful.pth"
    torch.save({"model": {"weight": Harmful()}}, path)
    with pytest.raises(UnsafeCheckpointError, match=r"harmful.pth: refused.*print"):
        load_model(path)
    path.write_bytes(pickle.dumps({"model": Harmful()}))
    with pytest.raises(CheckpointError, match=r"harmful\.pth"):
        load_model(path)
    assert "must not be printed" not in capsys.readouterr().out


def test_missing_truncated_and_other_files_are_reported(
    tmp_path: Path, small_model: Mask2Former
) -> None:
    with pytest.raises(CheckpointError, match=r"none.pth: no such file"):
        load_model(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=r"no model_final\.pth or last\.pth"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mask2former"}')
    with pytest.raises(CheckpointError, match=r"no model\.safetensors .* or a file$"):
        load_model(tmp_path)
    path = tmp_path / "model.pth"
    save_checkpoint(path, small_model)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"model.pth: truncated"):
        load_model(path)
    path.write_text("a letter")
    with pytest.raises(CheckpointError, match=r"model.pth"):
        load_model(path)
    torch.save({"model": {"fc.weight": torch.zeros(2)}}, path)
    with pytest.raises(CheckpointError, match=r"not a checkpoint of Mask2Former.*fc.weight"):
        load_model(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="contains a list"):
        load_model(path)
    torch.save({"model": {"epoch": 3}}, path)
    with pytest.raises(CheckpointError, match="contains no model"):
        load_model(path)
    broken = tmp_path / "model.safetensors"
    broken.write_bytes(b"123")
    with pytest.raises(CheckpointError, match=r"model.safetensors: truncated"):
        load_model(broken)


def test_missing_and_unexpected_entries_are_counted(
    tmp_path: Path, small_model: Mask2Former
) -> None:
    state = {to_official(k): v for k, v in small_model.state_dict().items()}
    path = tmp_path / "model.pth"
    del state["sem_seg_head.predictor.decoder_norm.weight"]
    state["proposal_generator.weight"] = torch.zeros(1)
    torch.save({"model": state}, path)
    with pytest.raises(
        CheckpointError,
        match=r"1 \(decoder.norm.weight\) missing, 1 \(proposal_generator.weight\) left over",
    ):
        load_model(path)
    for kind in ("weight", "bias"):
        state.pop(f"sem_seg_head.predictor.decoder_norm.{kind}", None)
    torch.save({"model": state}, path)
    with pytest.raises(CheckpointError, match=r"2 \(decoder.norm.bias, decoder.norm.weight\) m"):
        load_model(path)


def test_a_name_of_many_prefixes_is_not_a_parameter(tmp_path: Path) -> None:
    torch.save({"model": {"module." * 100_000 + "x": torch.ones(1)}}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / "model.pth")
