"""Reference cases: outputs of the official implementations for small random models.

Weights are defined by a rule (`parameter`), except those of the pixel decoder, which come from the
official initialisation with torch.manual_seed(0) and are stored in `pixel_decoder_*`.
"""

import copy
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mpdiag.checkpoints.official_keys import to_official
from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.matching import Target
from mpdiag.models import Mask2Former

CASES = Path(__file__).parent / "reference"


@dataclass
class Case:
    """One reference case: its figures, and mpdiag's model with its weights."""

    figures: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    model: Mask2Former

    def to(self, device: torch.device) -> "Case":
        """Return a copy on a device."""
        tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return Case(self.figures, tensors, copy.deepcopy(self.model).to(device))

    @property
    def images(self) -> list[torch.Tensor]:
        return [self.tensors["image.0"], self.tensors["image.1"]]

    @property
    def levels(self) -> list[torch.Tensor]:
        return [self.tensors[f"eval.multi_scale.{i}"] for i in range(3)]

    @property
    def targets(self) -> list[Target]:
        padded = []
        for image in range(2):
            masks = self.tensors[f"gt_masks.{image}"].bool()
            full = masks.new_zeros(len(masks), 96, 96)
            full[:, : masks.shape[1], : masks.shape[2]] = masks
            labels = self.tensors[f"gt_classes.{image}"].long()
            padded.append(Target(labels=labels, masks=full))
        return padded


def parameter(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Return the values of the official parameter `name` in a case with this seed."""
    state = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    values = state.standard_normal(int(np.prod(shape))).reshape(shape).astype(np.float32)
    if len(shape) > 1:
        embedding = "embed" in name.split(".")[-2] or any(
            word in name for word in ("query", "label_enc", "level_embed")
        )
        values = values if embedding else values / np.float32(np.prod(shape[1:]) ** 0.5)
    elif name.endswith("running_var"):
        values = np.float32(0.5) + np.abs(values)
    elif name.endswith("weight"):
        values = np.float32(1.0) + np.float32(0.1) * values
    else:
        values = np.float32(0.1) * values
    return torch.from_numpy(values)


BACKBONES = {
    "r50": BackboneConfig(name="resnet50", channels=(8, 16, 32, 64)),
    "swin": BackboneConfig(
        name="swin",
        embed_dim=16,
        depths=(2, 2, 2, 2),
        num_heads=(2, 2, 4, 8),
        window_size=4,
        drop_path_rate=0,
    ),
}


@pytest.fixture(params=["mask2former_r50", "mpformer_r50", "mask2former_swin"], scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    figures = json.loads((CASES / f"{request.param}.json").read_text())
    settings = figures["config"]
    family, backbone = request.param.split("_")
    piloted = family == "mpformer"
    config = ModelConfig(
        num_classes=settings["num_classes"],
        backbone=BACKBONES[backbone],
        hidden_dim=settings["hidden_dim"],
        mask_dim=settings["mask_dim"],
        num_heads=settings["nheads"],
        encoder_layers=settings["enc_layers"],
        encoder_feedforward_dim=settings["enc_ffn"],
        decoder_layers=settings["dec_layers"],
        feedforward_dim=settings["dim_feedforward"],
        num_queries=settings["num_queries"],
        query_position=not piloted,
        label_embedding=piloted,
    )
    model = Mask2Former(config)
    weights = load_file(CASES / f"pixel_decoder_{backbone}.safetensors")
    shapes = figures["param_shapes"]
    weights |= {name: parameter(name, tuple(shapes[name]), figures["seed"]) for name in shapes}
    model.load_state_dict({name: weights[to_official(name)] for name in model.state_dict()})
    return Case(figures, load_file(CASES / f"{request.param}.safetensors"), model)
