"""AdamW with Mask2Former's parameter groups, and the step schedule."""

import torch
from torch import nn

from mpdiag.config import OptimizerConfig, ScheduleConfig

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
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
    return torch.optim.AdamW(
        [{"params": p, "lr": rate, "weight_decay": d} for (rate, d), p in groups.items()],
        fused=True,
    )


def rate_factor(step: int, config: ScheduleConfig) -> float:
    """Learning rate at `step` as a share of the full one: linear warm-up, then steps down."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    factor = 1.0
    for drop, value in zip(config.drops, config.factors, strict=True):
        if step >= round(drop * config.iterations):
            factor *= value
    return factor
