"""Steps of a recipe, by one process or by several."""

from pathlib import Path

import torch

from mpdiag.config import TrainConfig
from mpdiag.data import TrainingBatches, build_augmentation, load_dataset
from trainers.distributed import DistributedContext
from trainers.methods import FullTrainConfig
from trainers.trainer import Trainer


def take_steps(config: TrainConfig, steps: int) -> dict[str, object]:
    """Return the losses of each step, and the clipped gradients of the first."""
    distributed = DistributedContext.initialize()
    data = load_dataset(config.data.dataset, root=config.data.root, split="train")
    batches = TrainingBatches(
        data,
        config.data.batch_size,
        config.seed,
        transform=build_augmentation(config.data),
        rank=distributed.rank,
        world_size=distributed.world_size,
    )
    trainer = Trainer(config, data.classes, distributed)
    stream = batches.start(0)
    losses, gradients = [], {}
    for step in range(steps):
        found, norm = trainer.step(next(stream), batches.batch_positions)
        losses.append({**distributed.mean(found), "norm": norm.item()})
        if step == 0:
            own = dict(trainer.method.named_parameters())
            gradients = {n: x.grad.clone() for n, x in own.items() if x.grad is not None}
    return {"losses": losses, "gradients": gradients}


def save_steps(recipes: dict[str, str], path: Path) -> None:
    """Take two steps of each recipe; the main process writes the results to `path`."""
    distributed = DistributedContext.initialize()
    results = {
        name: take_steps(FullTrainConfig.model_validate_json(recipe), 2)
        for name, recipe in recipes.items()
    }
    if distributed.is_main_process:
        torch.save(results, path)
    distributed.shutdown()
