"""Parameter groups and learning-rate schedules."""

import pytest
import torch
from torch import nn

from mpdiag.config import OptimizerConfig, ScheduleConfig
from trainers.optimizer import build_optimizer, in_iterations, lr_factor


def test_warm_up_and_milestones() -> None:
    schedule = ScheduleConfig(
        iterations=100, warmup_iterations=10, milestones=(0.8, 0.9), gammas=(0.3, 0.5)
    )
    found = [lr_factor(step, schedule) for step in (0, 4, 9, 10, 79, 80, 89, 90, 99)]
    assert found == pytest.approx([0.1, 0.5, 1, 1, 1, 0.3, 0.3, 0.15, 0.15])


def test_milestones_of_the_published_schedule_are_iterations() -> None:
    found = [lr_factor(step, ScheduleConfig()) for step in (0, 327777, 327778, 355091, 355092)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    short = ScheduleConfig(iterations=5)
    assert [lr_factor(step, short) for step in range(5)] == [1] * 5


def test_milestones_during_warm_up() -> None:
    schedule = ScheduleConfig(
        iterations=10, warmup_iterations=4, milestones=(1, 3), gammas=(0.5, 0.1)
    )
    found = [lr_factor(step, schedule) for step in range(5)]
    assert found == pytest.approx([0.25, 0.5 * 0.5, 0.75 * 0.5, 0.05, 0.05])


def test_polynomial_decay() -> None:
    """Equals torch's PolynomialLR, which has no warm-up."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    truth = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=50, power=0.9)
    schedule = ScheduleConfig(iterations=50, policy="poly")
    for step in range(51):
        assert lr_factor(step, schedule) == pytest.approx(truth.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        truth.step()
    warm = ScheduleConfig(iterations=50, policy="poly", warmup_iterations=5)
    assert lr_factor(1, warm) == pytest.approx(2 / 5 * (1 - 1 / 50) ** 0.9)
    assert lr_factor(5, warm) == pytest.approx((1 - 5 / 50) ** 0.9)


@pytest.mark.parametrize(
    ("epochs", "images", "iterations"),
    [(1, 16, 1), (1, 17, 2), (0.5, 160, 5), (12, 118000, 88500), (36, 118000, 265500)],
)
def test_epochs_become_iterations(epochs: float, images: int, iterations: int) -> None:
    """The last two are those of MP-Former, which counts 118,000 images in COCO."""
    found = in_iterations(
        ScheduleConfig(epochs=epochs, milestones=(0.5,), gammas=(0.1,)), images, 16
    )
    assert (found.iterations, found.epochs) == (iterations, None)
    assert lr_factor(round(iterations / 2), found) == pytest.approx(0.1)


def test_iterations_without_epochs() -> None:
    schedule = ScheduleConfig(iterations=7)
    assert in_iterations(schedule, 100, 16) is schedule


def test_parameter_groups() -> None:
    module = nn.ModuleDict(
        {
            "backbone": nn.ModuleDict({"conv": nn.Conv2d(1, 1, 1), "norm": nn.BatchNorm2d(1)}),
            "linear": nn.Linear(1, 1),
            "embed": nn.Embedding(2, 1),
            "norm": nn.LayerNorm(1),
        }
    )
    module["backbone"].register_parameter(
        "relative_position_bias_table", nn.Parameter(torch.zeros(2))
    )
    config = OptimizerConfig(learning_rate=1.0, weight_decay=0.5, backbone_lr_multiplier=0.1)
    optimizer = build_optimizer(module, config)
    where = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    found = {name: where[id(parameter)] for name, parameter in module.named_parameters()}
    assert found == {
        "backbone.relative_position_bias_table": (0.1, 0.0),
        "backbone.conv.weight": (0.1, 0.5),
        "backbone.conv.bias": (0.1, 0.5),
        "backbone.norm.weight": (0.1, 0.0),
        "backbone.norm.bias": (0.1, 0.0),
        "linear.weight": (1.0, 0.5),
        "linear.bias": (1.0, 0.5),
        "embed.weight": (1.0, 0.0),
        "norm.weight": (1.0, 0.0),
        "norm.bias": (1.0, 0.0),
    }
    assert isinstance(optimizer, torch.optim.AdamW)
