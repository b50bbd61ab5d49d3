"""Costs of operators by hand, and the predictions in the published results."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.roofline import H200, OperatorCosts, loss_bytes, model_costs, table
from mpdiag.config import ModelConfig
from mpdiag.models import Mask2Former
from mpdiag.models.complexity import count_multiply_adds

PAGE = Path(__file__).parents[2] / "reports" / "published" / "performance.md"


def test_costs_by_hand() -> None:
    with FakeTensorMode():
        layer, x = nn.Linear(64, 32), torch.empty(1000, 64)
        with OperatorCosts() as costs, torch.no_grad():
            layer(x).view(10, -1).relu()
    matrix, relu = costs.costs  # the view costs nothing
    assert (matrix.flops, relu.flops) == (2 * 1000 * 64 * 32, 0)
    assert matrix.bytes == 4 * (32 + 1000 * 64 + 64 * 32 + 1000 * 32)
    assert relu.bytes == 2 * 4 * 1000 * 32
    seconds = matrix.bytes / 4.8e12 + relu.bytes / 4.8e12  # no operator is bound by its FLOPs
    assert costs.bound(H200, "none") == pytest.approx(seconds)
    assert costs.launches == pytest.approx(1e-5)


def test_rates() -> None:
    """A matrix product and a convolution that are bound by their FLOPs, in each precision."""
    with FakeTensorMode(), OperatorCosts() as costs, torch.no_grad():
        x, images, weight = torch.empty(8192, 8192), torch.empty(8, 512, 64, 64), (512, 512, 3, 3)
        x @ x
        torch.conv2d(images, torch.empty(weight), padding=1)
        x.bfloat16() @ x.bfloat16()
    costs.costs = [cost for cost in costs.costs if cost.flops]
    product, convolution = 2 * 8192**3, 2 * 8 * 64 * 64 * 512 * 512 * 9
    assert [cost.flops for cost in costs.costs] == [product, convolution, product]
    half = product / 989e12
    for tf32, of_product, of_convolution in (
        ("none", 67e12, 67e12),
        ("convolutions", 67e12, 495e12),
        ("all", 495e12, 495e12),
    ):
        expected = product / of_product + convolution / of_convolution + half
        assert costs.bound(H200, tf32) == pytest.approx(expected)


def test_model(small_config: ModelConfig) -> None:
    """The forward pass has the multiply-adds of `mpdiag info`; a backward pass has about twice."""
    small_config = small_config.model_copy(update={"decoder_layers": 1})
    forward = model_costs(small_config, (64, 96), 1, half=False, backward=False)
    training = model_costs(small_config, (64, 96), 1, half=False, backward=True)
    flops, trained = (sum(cost.flops for cost in x.costs) for x in (forward, training))
    sampled = 2 * 3 * 4 * 32 * (2 * 3 + 4 * 6 + 8 * 12)  # the sum of deformable attention
    counted = count_multiply_adds(Mask2Former(small_config), 64, 96)["total"]
    assert flops == 2 * counted - small_config.encoder_layers * sampled
    assert 2.5 < trained / flops < 3.1
    attention = [cost for cost in forward.costs if "ms_deform_attn" in cost.name]
    assert len(attention) == small_config.encoder_layers


def test_losses_grow_with_masks_and_maps() -> None:
    config, size = ModelConfig(), (1024, 1024)
    one = loss_bytes(config, size, 1, 0)
    assert loss_bytes(config, size, 14, 200) == 14 * one + 200 * loss_bytes(config, size, 0, 1)
    assert one > 10 * 3 * 12544 * 2 * 4 * 2  # the candidates of each layer are written and read


def test_documentation_has_the_predictions() -> None:
    assert table() in PAGE.read_text()
