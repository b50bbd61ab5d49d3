"""State dicts with the names of transformers, as torch.save and Lightning write them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mpdiag.checkpoints import load_checkpoint, load_model
from mpdiag.checkpoints.transformers_directory import write_transformers
from mpdiag.config import ModelConfig
from mpdiag.errors import CheckpointError
from mpdiag.models import Mask2Former


@pytest.fixture
def written(tmp_path: Path, small_config: ModelConfig) -> Path:
    model = Mask2Former(small_config.model_copy(update={"label_embedding": False}))
    directory = tmp_path / "there"
    directory.mkdir()
    write_transformers(directory, model)
    return directory


@pytest.mark.parametrize(
    ("prefix", "others"),
    [
        ("", {}),
        ("module.", {}),
        ("model.", {"epoch": 3, "hyper_parameters": {"lr": 1e-4}}),
        ("student.", {"pytorch-lightning_version": "2.5.0"}),
    ],
)
def test_a_state_dict_is_a_checkpoint(
    prefix: str, others: dict[str, Any], written: Path, tmp_path: Path
) -> None:
    state = load_file(written / "model.safetensors")
    named = {prefix + name: values for name, values in state.items()}
    torch.save({"state_dict": named, **others} if others else named, tmp_path / "a.pth")
    found = load_model(tmp_path / "a.pth").state_dict()
    expected = load_model(written).state_dict()
    assert found.keys() >= expected.keys()  # transformers' norms count batches
    assert all(torch.equal(found[name], values) for name, values in expected.items())
    del state["class_predictor.bias"]
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"1 \(decoder.class_embed.bias\) missing"):
        load_checkpoint(tmp_path / "a.pth")


def test_another_model_of_transformers_needs_its_directory(tmp_path: Path) -> None:
    state = {"model.pixel_level_module.decoder.fpn.stem.0.weight": torch.ones(2, 2, 3, 3)}
    torch.save(state, tmp_path / "a.pth")  # of MaskFormer
    with pytest.raises(CheckpointError, match="give the directory of another model of"):
        load_checkpoint(tmp_path / "a.pth")
