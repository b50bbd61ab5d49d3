"""Reading and writing checkpoints: official keys, strictness, and files from strangers."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mpdiag.checkpoints import load_checkpoint, load_model, read_weights, save_checkpoint
from mpdiag.checkpoints.architecture import architecture_of
from mpdiag.checkpoints.official_keys import from_official, to_official
from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.errors import CheckpointError, UnsafeCheckpointError
from mpdiag.models import Mask2Former


def test_keys_translate_both_ways(small_model: Mask2Former) -> None:
    for name in small_model.state_dict():
        assert from_official(to_official(name)) == name
    assert from_official("sem_seg_head.predictor.label_enc.weight") == "decoder.label_embed.weight"
    assert from_official("roi_heads.box_head.fc1.weight") is None


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_checkpoint_needs_no_config(
    tmp_path: Path, small_model: Mask2Former, suffix: str
) -> None:
    path = tmp_path / f"model.{suffix}"
    if suffix == "pth":
        save_checkpoint(path, small_model)
    else:
        save_file({to_official(k): v for k, v in small_model.state_dict().items()}, path)
    loaded = load_model(path)
    # Decoder heads can't be read from weights: they are taken from the pixel decoder.
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
    found = architecture_of(Mask2Former(config).state_dict(), "here")
    assert found == config.model_copy(
        update={"backbone": BackboneConfig(name=name, channels=widths)}
    )


def test_a_saved_file_holds_tensors_and_plain_containers(
    tmp_path: Path, small_model: Mask2Former
) -> None:
    path = tmp_path / "model.pth"
    save_checkpoint(path, small_model, iteration=3)
    content = torch.load(path, weights_only=True)
    assert content["iteration"] == 3
    assert content["model"]["criterion.empty_weight"].tolist() == pytest.approx([1, 1, 1, 0.1])
    assert not list(tmp_path.glob("*.tmp"))


def test_a_training_directory_gives_its_newest_model(
    tmp_path: Path, small_model: Mask2Former
) -> None:
    save_checkpoint(tmp_path / "last.pth", small_model)
    assert read_weights(tmp_path).path.name == "last.pth"
    save_checkpoint(tmp_path / "model_final.pth", small_model)
    assert load_checkpoint(tmp_path).path.name == "model_final.pth"


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must not be seen",)


def test_a_checkpoint_that_would_run_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "harmful.pth"
    torch.save({"model": {"weight": Harmful()}}, path)
    with pytest.raises(UnsafeCheckpointError, match=r"harmful.pth: refused.*print"):
        load_model(path)
    path.write_bytes(pickle.dumps({"model": Harmful()}))
    with pytest.raises(CheckpointError, match=r"harmful\.pth"):
        load_model(path)
    assert "must not be seen" not in capsys.readouterr().out


def test_missing_truncated_and_foreign_files_are_named(
    tmp_path: Path, small_model: Mask2Former
) -> None:
    with pytest.raises(CheckpointError, match=r"none.pth: no such checkpoint"):
        load_model(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=r"no model_final\.pth or last\.pth"):
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
    with pytest.raises(CheckpointError, match=r"something else than Mask2Former.*fc.weight"):
        load_model(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        load_model(path)
    torch.save({"model": {"epoch": 3}}, path)
    with pytest.raises(CheckpointError, match="no model in it"):
        load_model(path)
    broken = tmp_path / "model.safetensors"
    broken.write_bytes(b"123")
    with pytest.raises(CheckpointError, match=r"model.safetensors: truncated"):
        load_model(broken)


def test_missing_and_left_over_entries_are_counted(
    tmp_path: Path, small_model: Mask2Former
) -> None:
    state = {to_official(k): v for k, v in small_model.state_dict().items()}
    del state["sem_seg_head.predictor.decoder_norm.weight"]
    state["proposal_generator.weight"] = torch.zeros(1)
    path = tmp_path / "model.pth"
    torch.save({"model": state}, path)
    with pytest.raises(
        CheckpointError,
        match=r"1 \(decoder.norm.weight\) missing, 1 \(proposal_generator.weight\) left over",
    ):
        load_model(path)
