"""A step that went wrong, kept so that `python -m trainers.trouble FILE` can do it again.

The file is a checkpoint of the model as it was before the step, with the step's samples beside it.
Like any checkpoint it holds tensors and plain values alone.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mpdiag.checkpoints import read_weights
from mpdiag.config import TrainConfig, parse
from mpdiag.data import ClassInfo, Sample
from mpdiag.errors import CheckpointError, MpdiagError, NonFiniteError, TrainingError
from trainers.ranks import Ranks
from trainers.trainer import Trainer


def report(
    trainer: Trainer,
    samples: Sequence[Sample],
    slots: Sequence[int],
    error: NonFiniteError,
    output: Path,
) -> TrainingError:
    """Keep the step at hand in `output`, and say in one sentence what went wrong and where."""
    concerned = samples if error.image is None else [samples[error.image]]
    ids = [sample.image_id for sample in concerned]
    where = "" if error.layer is None else f" of layer {error.layer}"
    name = f"trouble-step-{trainer.done}-rank-{trainer.ranks.rank}.pth"
    path = trainer.write(
        output / name,
        trouble={
            "message": str(error),
            "slots": list(slots),
            "samples": [asdict(sample) for sample in samples],
        },
    )
    return TrainingError(
        f"step {trainer.done}: {error.term}{where} is not finite on image"
        f"{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids))}; look at them or lower "
        f"optimizer.learning_rate ('python -m trainers.trouble {path}' does this step again)"
    )


def replay(path: Path) -> None:
    """Do the step of a dump again, on one process.

    Raises:
        NonFiniteError: what went wrong in it, if it goes wrong here too.
        CheckpointError: no such dump.
    """
    found = read_weights(path)
    try:
        trouble: dict[str, Any] = found.extra["trouble"]
        config = parse(TrainConfig, found.extra["mpdiag"]["recipe"], str(path))
        classes = [ClassInfo(**entry) for entry in found.extra["mpdiag"]["classes"]]
        samples = [
            Sample(**{**entry, "original_size": tuple(entry["original_size"])})
            for entry in trouble["samples"]
        ]
        done, slots = int(found.extra["iteration"]), list(trouble["slots"])
    except (KeyError, TypeError):
        raise CheckpointError(f"{path}: no dump of a step that went wrong") from None
    config = config.model_copy(update={"init": None})
    trainer = Trainer(config, classes, Ranks.join())
    trainer.model.load_state_dict(found.weights)
    trainer.method.load_state_dict(found.extra["method"], strict=False)
    trainer.done = done
    trainer.step(samples, slots)


def main() -> None:
    """Replay the file on the command line."""
    try:
        replay(Path(sys.argv[1]))
    except MpdiagError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print("The step is finite here.")


if __name__ == "__main__":
    main()
