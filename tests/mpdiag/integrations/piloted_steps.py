"""Steps with the losses of the MP part alone, by one process or by several."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mpdiag.config import LossConfig
from mpdiag.integrations.transformers import MaskPiloting

from ...transformers_models import mask2former

SIZE = (64, 96)
BATCHES = ((2, 1), (3, 0), (0, 0))  # number of objects of each image
BACKBONE = {
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [2, 2, 2, 2],
    "layer_type": "basic",
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


def build_mask2former() -> Any:
    """Return a small Mask2Former of transformers with random weights, in training mode."""
    import transformers

    torch.manual_seed(0)
    return mask2former(
        backbone_config=transformers.ResNetConfig(**BACKBONE),
        mask_feature_size=32,
        decoder_layers=3,
        num_attention_heads=2,
        num_queries=6,
        train_num_points=100,
    ).train()


def batch_of(*counts: int) -> dict[str, Any]:
    """Return images with this many rectangles of different size."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(len(counts), 3, *SIZE, generator=generator)
    masks = [torch.zeros(count, *SIZE) for count in counts]
    for image in masks:
        for gt, mask in enumerate(image):
            mask[3 + 9 * gt : 30 + 9 * gt, 5 + 13 * gt : 40 + 17 * gt] = 1
    labels = [torch.arange(count) % 3 for count in counts]
    return {"pixel_values": pixels, "mask_labels": masks, "class_labels": labels}


def take_piloted_steps(images: Sequence[int]) -> list[dict[str, Tensor]]:
    """Return the gradients of each of BATCHES for the images of this process, without noise."""
    model = build_mask2former()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # its statistics would be those of the process
    piloting = MaskPiloting(model, queries=6, noise="none", label_noise=0.0)
    piloting.loss_config = LossConfig(num_points="all")
    step: nn.Module = model
    if dist.is_initialized():  # as transformers' Trainer wraps it
        step = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    found = []
    for counts in BATCHES:
        whole = batch_of(*counts)
        batch = {key: [value[image] for image in images] for key, value in whole.items()}
        batch["pixel_values"] = torch.stack(batch["pixel_values"])
        (0 * step(**batch).loss + piloting.loss()).backward()
        own = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
        found.append({name: x.clone() for name, x in own.items()})
        model.zero_grad()
    return found


def save_piloted_steps(path: Path) -> None:
    """Take the steps with one image of each batch per process; the first writes the gradients."""
    dist.init_process_group("gloo")
    found = take_piloted_steps([dist.get_rank()])
    if dist.get_rank() == 0:
        torch.save(found, path)
    dist.destroy_process_group()
