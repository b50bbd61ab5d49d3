"""AdamW with Mask2Former's parameter groups, and the schedule of its learning rate."""

import math
from typing import Any

import torch
from torch import nn

from mpdiag.config import OptimizerConfig, ScheduleConfig

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`."""
    return torch.optim.AdamW(parameter_groups(module, config), fused=True)


def parameter_groups(module: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """One group for each pair of learning rate and weight decay.

    The backbone learns at `backbone_multiplier` times the rate; norms and embeddings do not
    decay (`train_net.py` in facebookresearch/Mask2Former).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for path, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            inside = "backbone" in path.split(".")
            rate = config.learning_rate * (config.backbone_multiplier if inside else 1.0)
            free = (
                isinstance(owner, (*_NORMS, nn.Embedding)) or name == "relative_position_bias_table"
            )
            decay = 0.0 if free else config.weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": d} for (rate, d), p in groups.items()]


def resolved(schedule: ScheduleConfig, images: int, batch_size: int) -> ScheduleConfig:
    """The schedule in iterations: its epochs, if given, over so many images, rounded up."""
    if schedule.epochs is None:
        return schedule
    iterations = math.ceil(schedule.epochs * images / batch_size)
    return schedule.model_copy(update={"iterations": iterations, "epochs": None})


def rate_factor(step: int, config: ScheduleConfig) -> float:
    """Learning rate at `step`, counted from 0, as a share of the full one.

    The linear warm-up is multiplied with the decline, as in detectron2's schedulers: steps down, or
    DeepLab's (1 - step / iterations) ** power. A drop at or beyond the last step never comes.
    """
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.decline == "poly":
        return warm * math.pow(max(0.0, 1 - step / config.iterations), config.power)
    for drop, factor in zip(config.drops, config.factors, strict=True):
        if step >= (drop if drop >= 1 else round(drop * config.iterations)):
            warm *= factor
    return warm
