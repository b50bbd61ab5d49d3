"""Costs of layers counted by hand, and of the published model beside the paper's figures."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mpdiag.config import ModelConfig
from mpdiag.errors import ConfigError
from mpdiag.models import Mask2Former
from mpdiag.models.complexity import (
    complexity_rows,
    frames_per_second,
    count_multiply_adds,
    count_parameters,
    parse_size,
)
from mpdiag.ops import use_backend


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
    assert count_parameters(model) == {"conv": 3 * 5 * 9 + 5, "linear": 5 * 7 + 7, "total": 182}
    conv, linear = 4 * 6 * 5 * 3 * 9, 4 * 6 * 5 * 7
    assert count_multiply_adds(model, 8, 12) == {
        "conv": conv, "linear": linear, "total": conv + linear
    }  # fmt: skip


def test_shapes_alone_give_what_a_real_pass_gives(small_model) -> None:
    image = torch.zeros(3, 50, 90, dtype=torch.uint8)
    with use_backend("plain"), FlopCounterMode(display=False) as counter:
        small_model([image])
    found = count_multiply_adds(small_model, 50, 90)
    assert 2 * found["total"] == counter.get_total_flops()
    assert set(found) == {"backbone", "pixel_decoder", "decoder", "total"}
    assert found["total"] == sum(found.values()) - found["total"]
    assert all(weights.device.type == "cpu" for weights in small_model.parameters())


def test_published_model() -> None:
    """The official model's own parameters, and fvcore's count of it for 800 x 1066."""
    with torch.device("meta"):
        model = Mask2Former(ModelConfig())
    assert count_parameters(model) == {
        "backbone": 23_454_912,
        "pixel_decoder": 6_035_904,
        "decoder": 14_479_441,
        "total": 43_970_257,
    }
    # Ours weighs deformable attention's samples by a product, fvcore's model element by element:
    # 6 layers, every cell of strides 8, 16 and 32, 12 samples of 256 channels.
    weighing = 6 * (100 * 136 + 50 * 68 + 25 * 34) * 12 * 256
    assert count_multiply_adds(model, 800, 1066)["total"] == pytest.approx(217.869e9 + weighing, rel=1e-3)


def test_frames_per_second(small_model) -> None:
    small_model.eval()
    passes = []
    small_model.register_forward_hook(lambda *_: passes.append(1))
    assert 0 < frames_per_second(small_model, 64, 64, runs=3) < 1e5
    assert len(passes) == 1 + 3
    frames_per_second(small_model, 64, 64, patience=0)
    assert len(passes) == 1 + 3 + 1 + 1


def test_rows_in_words(small_model) -> None:
    rows = dict(complexity_rows(small_model, 64, 96))
    counts = count_multiply_adds(small_model, 64, 96)
    names = ["backbone", "pixel decoder", "decoder", "all parts", "speed"]
    assert list(rows) == [f"{name} at 64x96" for name in names]
    assert rows["all parts at 64x96"] == f"{counts['total'] / 1e9:.4g} G multiply-adds"
    assert "images per second on" in rows["speed at 64x96"]


def test_sizes() -> None:
    assert parse_size("800x1333") == parse_size("800X1333") == (800, 1333)
    for wrong in ("800", "800x", "x", "0x5", "8x-5", "axb", "1x2x3"):
        with pytest.raises(ConfigError, match=f"--size {wrong}: .* as 800x1333"):
            parse_size(wrong)
