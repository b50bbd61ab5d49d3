"""One process of test_distributed.py: a step and an evaluation under DistributedDataParallel."""

import json
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import mpdiag
from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.losses import set_losses
from mpdiag.matching import match
from mpdiag.models import Mask2Former

IMAGES = 4
CONFIG = ModelConfig(
    num_classes=3,
    backbone=BackboneConfig(name="resnet18", channels=(8, 8, 8, 8), stem_channels=8),
    hidden_dim=32,
    mask_dim=8,
    num_heads=2,
    encoder_layers=1,
    encoder_feedforward_dim=16,
    decoder_layers=2,
    feedforward_dim=16,
    num_queries=5,
)


def images_of(
    rank: int, world_size: int
) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Return every `world_size`-th image and its GT; image k has k objects."""
    images, targets = [], []
    for index in range(rank, IMAGES, world_size):
        generator = torch.Generator().manual_seed(index)
        images.append(torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=generator))
        masks = torch.rand(index, 64, 64, generator=generator) > 0.6
        labels = torch.randint(0, 3, (index,), generator=generator)
        targets.append({"labels": labels, "masks": masks})
    return images, targets


def run(rank: int, world_size: int, output: Path) -> dict[str, dict[str, float]]:
    torch.manual_seed(0)
    model: nn.Module = Mask2Former(CONFIG).train()
    if world_size > 1:
        model = DistributedDataParallel(model, find_unused_parameters=True)
    monitor = mpdiag.LayerMonitor(model, every=1)
    images, targets = images_of(rank, world_size)
    found = model(images).matching
    predictions = found.class_logits, found.mask_logits
    assignment = match(*predictions, targets)
    losses = set_losses(*predictions, targets, assignment, None, num_masks=3)
    (losses.class_ + losses.mask + losses.dice).sum().backward()
    values = monitor.step(targets)
    model.eval()
    monitor.start_evaluation()
    with torch.no_grad():
        model(images)
    monitor.measure(targets)
    evaluated = monitor.finish_evaluation()
    monitor.write_run(output / f"run-{world_size}")
    return {"step": values, "evaluation": evaluated}


def save(folder: Path) -> None:
    """Run one of several processes and save what it returns."""
    dist.init_process_group("gloo")
    result = run(dist.get_rank(), dist.get_world_size(), folder)
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(result))
    dist.destroy_process_group()
