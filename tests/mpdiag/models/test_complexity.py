"""Complexity of layers by hand, and of the published model against the paper."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mpdiag.config import ModelConfig
from mpdiag.models import Mask2Former
from mpdiag.models.complexity import (
    complexity_rows,
    count_multiply_adds,
    count_parameters,
    frames_per_second,
)
from mpdiag.ops import use_backend


class ConvLinear(nn.Module):
    """A convolution, followed by a linear layer on each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.linear = nn.Linear(5, 7)

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        return self.linear(self.conv(images[0][None].float()).permute(0, 2, 3, 1))


def test_by_hand() -> None:
    model = ConvLinear()
    assert count_parameters(model) == {"conv": 3 * 5 * 9 + 5, "linear": 5 * 7 + 7, "total": 182}
    conv, linear = 4 * 6 * 5 * 3 * 9, 4 * 6 * 5 * 7
    assert count_multiply_adds(model, 8, 12) == {
        "conv": conv, "linear": linear, "total": conv + linear
    }  # fmt: skip


def test_fake_tensors_give_the_counts_of_a_real_pass(small_model) -> None:
    image = torch.zeros(3, 50, 90, dtype=torch.uint8)
    with use_backend("plain"), FlopCounterMode(display=False) as counter:
        small_model([image])
    found = count_multiply_adds(small_model, 50, 90)
    assert 2 * found["total"] == counter.get_total_flops()
    assert set(found) == {"backbone", "pixel_decoder", "decoder", "total"}
    assert found["total"] == sum(found.values()) - found["total"]
    assert all(weights.device.type == "cpu" for weights in small_model.parameters())


def test_published_model() -> None:
    """Parameters of the official model, and fvcore's count for 800 x 1066."""
    with torch.device("meta"):
        model = Mask2Former(ModelConfig())
    assert count_parameters(model) == {
        "backbone": 23_454_912,
        "pixel_decoder": 6_035_904,
        "decoder": 14_479_441,
        "total": 43_970_257,
    }
    # fvcore does not count the weighted sum of deformable attention: 6 layers, all cells of strides
    # 8, 16 and 32, 12 samples of 256 channels.
    weighted_sum = 6 * (100 * 136 + 50 * 68 + 25 * 34) * 12 * 256
    total = count_multiply_adds(model, 800, 1066)["total"]
    assert total == pytest.approx(217.869e9 + weighted_sum, rel=1e-3)


def test_frames_per_second(small_model) -> None:
    small_model.eval()
    passes = []
    small_model.register_forward_hook(lambda *_: passes.append(1))
    assert 0 < frames_per_second(small_model, 64, 64, runs=3) < 1e5
    assert len(passes) == 1 + 3
    frames_per_second(small_model, 64, 64, time_limit=0)
    assert len(passes) == 1 + 3 + 1 + 1


def test_complexity_rows(small_model) -> None:
    rows = dict(complexity_rows(small_model, 64, 96))
    counts = count_multiply_adds(small_model, 64, 96)
    names = ["backbone", "pixel decoder", "decoder", "all parts", "speed"]
    assert list(rows) == [f"{name} at 64x96" for name in names]
    assert rows["all parts at 64x96"] == f"{counts['total'] / 1e9:.4g} G multiply-adds"
    assert "images per second on" in rows["speed at 64x96"]
