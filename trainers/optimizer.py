"""AdamW with Mask2Former's parameter groups, and its learning-rate schedule."""

import math
from typing import Any

import torch
from torch import nn

from mpdiag.config import OptimizerConfig, ScheduleConfig

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Return AdamW over `parameter_groups`."""
    return torch.optim.AdamW(parameter_groups(module, config), fused=True)


def parameter_groups(module: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Return one group per pair of learning rate and weight decay.

    The backbone's learning rate is multiplied by `backbone_lr_multiplier`. Norms and embeddings
    have no weight decay (`train_net.py` in facebookresearch/Mask2Former).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for path, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            in_backbone = "backbone" in path.split(".")
            rate = config.learning_rate * (config.backbone_lr_multiplier if in_backbone else 1.0)
            no_decay = (
                isinstance(owner, (*_NORMS, nn.Embedding)) or name == "relative_position_bias_table"
            )
            decay = 0.0 if no_decay else config.weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": d} for (rate, d), p in groups.items()]


def in_iterations(schedule: ScheduleConfig, images: int, batch_size: int) -> ScheduleConfig:
    """Return the schedule with its epochs converted to iterations, rounded up."""
    if schedule.epochs is None:
        return schedule
    iterations = math.ceil(schedule.epochs * images / batch_size)
    return schedule.model_copy(update={"iterations": iterations, "epochs": None})


def lr_factor(step: int, config: ScheduleConfig) -> float:
    """Return the learning rate at `step`, from 0, relative to the base rate.

    Linear warm-up multiplies the decay, as in detectron2's schedulers: factors at milestones, or
    DeepLab's (1 - step / iterations) ** power.
    """
    warmup, factor = config.warmup_iterations, 1.0
    if warmup:
        factor = min(1.0, (step + 1) / warmup)
    if config.policy == "poly":
        return factor * math.pow(max(0.0, 1 - step / config.iterations), config.power)
    for milestone, gamma in zip(config.milestones, config.gammas, strict=True):
        if step >= (milestone if milestone >= 1 else round(milestone * config.iterations)):
            factor *= gamma
    return factor
