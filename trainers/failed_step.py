"""Dumps of training steps that failed. `python -m trainers.failed_step FILE` repeats the step.

A dump is a checkpoint of the model before the step, with the samples of the step. Like every
checkpoint it contains only tensors and plain values.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mpdiag.checkpoints import read_weights
from mpdiag.config import parse
from mpdiag.data import ClassInfo, Sample
from mpdiag.errors import CheckpointError, MpdiagError, NonFiniteError, TrainingError
from mpdiag.legacy_names import FAILED_STEP_KEYS, upgrade_config
from trainers.distributed import DistributedContext
from trainers.methods import FullTrainConfig
from trainers.trainer import Trainer


def dump_failed_step(
    trainer: Trainer,
    samples: Sequence[Sample],
    positions: Sequence[int],
    error: NonFiniteError,
    output: Path,
) -> TrainingError:
    """Write a dump of the current step, and return an error that names cause and file."""
    concerned = samples if error.image is None else [samples[error.image]]
    ids = [sample.image_id for sample in concerned]
    where = "" if error.layer is None else f" of layer {error.layer}"
    name = f"failed-step-{trainer.iteration}-rank-{trainer.distributed.rank}.pth"
    path = trainer.write(
        output / name,
        failed_step={
            "message": str(error),
            "positions": list(positions),
            "samples": [asdict(sample.to("cpu")) for sample in samples],
        },
    )
    return TrainingError(
        f"step {trainer.iteration}: {error.term}{where} is not finite on image"
        f"{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids))}; check these images or lower "
        f"optimizer.learning_rate ('python -m trainers.failed_step {path}' repeats this step)"
    )


def replay(path: Path) -> None:
    """Repeat the step of a dump in one process.

    Raises:
        NonFiniteError: the step fails again.
        CheckpointError: the file is no such dump.
    """
    found = read_weights(path)
    try:
        extra = {FAILED_STEP_KEYS.get(key, key): value for key, value in found.extra.items()}
        failed = {FAILED_STEP_KEYS.get(key, key): x for key, x in extra["failed_step"].items()}
        recipe = upgrade_config(extra["mpdiag"]["recipe"])
        config = parse(FullTrainConfig, recipe, str(path))
        classes = [ClassInfo(**entry) for entry in extra["mpdiag"]["classes"]]
        samples = [
            Sample(**{**entry, "original_size": tuple(entry["original_size"])})
            for entry in failed["samples"]
        ]
        positions = list(failed["positions"])
    except (AttributeError, KeyError, TypeError):
        raise CheckpointError(f"{path}: not a dump of a failed step") from None
    trainer = Trainer(config, classes, DistributedContext.initialize(), initialize=False)
    trainer.restore_weights(found)
    trainer.step(samples, positions)


def main() -> None:
    """Replay the file on the command line."""
    try:
        replay(Path(sys.argv[1]))
    except MpdiagError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print("All values of the step are finite.")


if __name__ == "__main__":
    main()
