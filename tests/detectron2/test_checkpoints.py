"""mpdiag and detectron2 load each other's checkpoints strictly."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mpdiag.checkpoints import load_model, save_checkpoint
from mpdiag.checkpoints.official_keys import to_official
from mpdiag.config import ModelConfig
from mpdiag.models import Mask2Former


def test_official_checkpointer_loads_mpdiags_checkpoint(
    build_official: Callable[[], nn.Module], our_config: ModelConfig, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    ours, official = Mask2Former(our_config), build_official()
    save_checkpoint(tmp_path / "model_final.pth", ours)
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    official.load_state_dict(saved)  # strict
    fresh = build_official()
    checkpointer = importlib.import_module("detectron2.checkpoint").DetectionCheckpointer(fresh)
    checkpointer.load(str(tmp_path / "model_final.pth"))
    for model in (official, fresh):
        there = model.state_dict()
        for name, tensor in ours.state_dict().items():
            assert torch.equal(there[to_official(name)], tensor), name


def test_load_model_loads_the_official_checkpoint(
    build_official: Callable[[], nn.Module],
    our_config: ModelConfig,
    inputs: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    official = build_official().eval()
    checkpointer = importlib.import_module("detectron2.checkpoint").DetectionCheckpointer(
        official, str(tmp_path)
    )
    checkpointer.save("model_final", iteration=7)
    ours = load_model(tmp_path / "model_final.pth")
    heads = {"num_heads", "encoder_points"}  # weights contain only their product
    assert ours.config.model_dump(exclude=heads) == our_config.model_dump(exclude=heads)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, official.state_dict()[to_official(name)]), name
