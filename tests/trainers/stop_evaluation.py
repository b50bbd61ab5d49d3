"""An evaluation by several processes, of which one gets the signal to stop."""

from mpdiag.data import load_held_out
from trainers.distributed import DistributedContext
from trainers.methods import FullTrainConfig
from trainers.trainer import Trainer
from trainers.validation import validate


def stop_rank_1(recipe: str) -> None:
    """Evaluate until rank 1 stops after its first image, and print what `validate` returns."""
    config, distributed = (
        FullTrainConfig.model_validate_json(recipe),
        DistributedContext.initialize(),
    )
    data = load_held_out(config.data)
    trainer = Trainer(config, data.classes, distributed)
    found = validate(trainer, data, lambda done, total: distributed.rank != 1)
    print(f"rank {distributed.rank} of {distributed.world_size}: {found}, {trainer.model.training}")
    distributed.shutdown()
