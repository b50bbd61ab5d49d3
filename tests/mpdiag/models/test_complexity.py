"""Costs of layers counted by hand, and of the published model beside the paper's figures."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mpdiag.config import ModelConfig
from mpdiag.models import Mask2Former
from mpdiag.models.complexity import frames_per_second, multiply_adds, parameters


class Two(nn.Module):
    """A convolution, and a linear layer over its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.linear = nn.Linear(5, 7)

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        return self.linear(self.conv(images[0][None].float()).permute(0, 2, 3, 1))


def test_by_hand() -> None:
    model = Two()
    assert parameters(model) == {"conv": 3 * 5 * 9 + 5, "linear": 5 * 7 + 7, "total": 182}
    conv, linear = 4 * 6 * 5 * 3 * 9, 4 * 6 * 5 * 7
    assert multiply_adds(model, 8, 12) == {
        "conv": conv, "linear": linear, "total": conv + linear
    }  # fmt: skip


def test_shapes_alone_give_what_a_real_pass_gives(small_model) -> None:
    image = torch.zeros(3, 50, 90, dtype=torch.uint8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        small_model([image])
    found = multiply_adds(small_model, 50, 90)
    assert 2 * found["total"] == counter.get_total_flops()
    assert set(found) == {"backbone", "pixel_decoder", "decoder", "total"}
    assert found["total"] == sum(found.values()) - found["total"]
    assert all(weights.device.type == "cpu" for weights in small_model.parameters())


def test_published_model() -> None:
    """44 M parameters and 226 G multiply-adds in the papers; README of the difference: docs."""
    with torch.device("meta"):
        model = Mask2Former(ModelConfig())
    assert parameters(model)["total"] / 1e6 == pytest.approx(44, abs=0.5)


def test_frames_per_second(small_model) -> None:
    assert 0 < frames_per_second(small_model.eval(), 64, 64, warmup=1, runs=3) < 1e5
