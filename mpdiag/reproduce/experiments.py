"""The trainings behind the paper's tables and figures, by name, at each size.

Rows of several tables share a training by its name (`reports.reproduction.table_rows`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mpdiag.config import Recipe, TrainConfig
from mpdiag.errors import ConfigError
from reports.reproduction import TABLES, table_rows
from trainers.recipe import read_recipe


@dataclass(frozen=True, slots=True)
class Size:
    """How large the trainings are.

    Attributes:
        about: in a line.
        recipe: what every training starts from; None: each from its own packaged recipe.
        changes: KEY=VALUE over that recipe.
        images: of the synthetic data set's train and val split; None: the recipe's own data set.
        gpu_memory: GiB that one training takes on a GPU, generously; it decides how many run
            beside each other.
        alone: one training takes all GPUs, by torchrun.
    """

    name: str
    about: str
    recipe: str | None = None
    changes: tuple[str, ...] = ()
    images: tuple[int, int] | None = None
    gpu_memory: float = 80.0
    alone: bool = False


# The analysis evaluates once, at the end; on the way nothing is decided by it.
_NO_EVALUATION = ("evaluate_every=null", "diagnose_every=null", "log_every=10")

SIZES = {
    size.name: size
    for size in (
        Size(
            "tiny",
            "a small model on synthetic shapes, 1,500 steps: minutes a training on two cores",
            recipe="synthetic-tiny",
            changes=("schedule.iterations=1500", *_NO_EVALUATION),
            images=(6000, 1000),
            gpu_memory=4.0,
        ),
        Size(
            "small",
            "the same model four times as long on four times as many images: for one GPU",
            recipe="synthetic-tiny",
            changes=("schedule.iterations=6000", *_NO_EVALUATION),
            images=(24000, 1000),
            gpu_memory=4.0,
        ),
        Size("paper", "the published schedules on COCO and ADE20K, on all GPUs", alone=True),
    )
}


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """One training of an ablation.

    Attributes:
        changes: what makes it, as KEY=VALUE over a size's recipe.
        recipe: its packaged recipe, at the size of the paper; None where there it is none.
        share: of the size's steps that it takes.
    """

    name: str
    changes: tuple[str, ...] = ()
    recipe: str | None = None
    share: float = 1.0


def _piloted(layers: int | str, noise: str, label_noise: float = 0.2) -> tuple[str, ...]:
    return (
        "method=piloted",
        f"pilot.layers={layers}",
        f"pilot.noise={noise}",
        f"pilot.label_noise={label_noise}",
    )


_ALL_LAYERS = _piloted("all", "point")

TRAININGS = {
    training.name: training
    for training in (
        TrainingSpec("baseline", ("method=baseline",), "table4-1-mask2former"),
        TrainingSpec("mp-no-noise", _piloted(3, "none", 0.0), "table4-2-mp"),
        TrainingSpec("mp-label-noise", _piloted(3, "none"), "table4-3-label-noise"),
        TrainingSpec("mp-point-noise", _piloted(3, "point"), "table4-4-point-noise"),
        TrainingSpec("mp-all-layers", _ALL_LAYERS, "table4-5-all-layers"),
        TrainingSpec("mp-first-layer", _piloted(1, "none"), "table5-first-layer"),
        TrainingSpec("mp-shift-noise", _piloted(3, "shift"), "table5-shift-noise"),
        TrainingSpec("mp-scale-noise", _piloted(3, "scale"), "table5-scale-noise"),
        TrainingSpec(
            "mp-all-large", (*_ALL_LAYERS, "model.feature_maps=all-large"), "table6-all-large"
        ),
        TrainingSpec("mp-match", (*_piloted(3, "none"), "pilot.assignment=match"), "table6-match"),
        TrainingSpec("fixed-matching", ("method=fixed-matching",), "table7-fixed-matching"),
        TrainingSpec("auxiliary-loss", ("method=auxiliary-loss",), "table7-auxiliary-loss"),
        # Table 3 asks whether MP-Former needs fewer steps: 36 of 50 epochs, 80k of 160k steps.
        TrainingSpec("mp-72-percent", _ALL_LAYERS, share=0.72),
        TrainingSpec("mp-half", _ALL_LAYERS, share=0.5),
        TrainingSpec("coco-mask2former-50-epochs", recipe="table3-mask2former-r50-coco-instance"),
        TrainingSpec("coco-mp-former-36-epochs", recipe="table3-mp-former-r50-coco-instance"),
        TrainingSpec("ade20k-mask2former-160k", recipe="table2-mask2former-r50-instance"),
        TrainingSpec("ade20k-mp-former-80k", recipe="table3-mp-former-r50-80k-instance"),
    )
}


def required_trainings(targets: Sequence[str], size: Size) -> list[TrainingSpec]:
    """The trainings that these tables and figures need, each once.

    Raises:
        ConfigError: there is no such table.
    """
    names: dict[str, None] = {}
    for target in expand_targets(targets):
        rows = table_rows(target, as_published=size.recipe is None)
        names |= dict.fromkeys(row.training for row in rows)
    return [TRAININGS[name] for name in names]


def expand_targets(targets: Sequence[str]) -> list[str]:
    """The tables and figures by name, `all` spelled out.

    Raises:
        ConfigError: there is no such table.
    """
    unknown = [name for name in targets if name not in TABLES and name != "all"]
    if unknown or not targets:
        given = unknown[0] if unknown else "nothing"
        raise ConfigError(f"reproduce {given}: choose from {', '.join(TABLES)} or all")
    return [name for name in TABLES if name in targets or "all" in targets]


@dataclass(frozen=True, slots=True)
class SeededTraining:
    """A training with a seed: what has a directory of its own."""

    training: TrainingSpec
    seed: int
    recipe: str
    changes: tuple[str, ...]
    config: TrainConfig

    @property
    def key(self) -> str:
        """Its name in directories."""
        return key(self.training.name, self.seed)

    @property
    def piloted(self) -> bool:
        """Whether it has an MP part with GT masks, which can be analysed."""
        config = self.config
        return "piloted" in config.method and config.pilot.feed == "attention-mask"

    @property
    def command(self) -> list[str]:
        """Words for `mpdiag train`."""
        return [self.recipe, *self.changes]


def key(name: str, seed: int) -> str:
    """The name of a training's directory, and the beginning of its runs' names."""
    return f"{name}-seed-{seed}"


def seeded(training: TrainingSpec, seed: int, size: Size, root: Path | None) -> SeededTraining:
    """A training at a size, from its recipe.

    Args:
        root: where its data sets are; None: where the recipe looks.
    """
    recipe = size.recipe or training.recipe
    assert recipe is not None, f"{training.name} has no recipe at size {size.name}"
    changes = [*size.changes, *(training.changes if size.recipe else ()), f"seed={seed}"]
    if root is not None:
        changes.append(f"data.root={root}")
    read: Recipe = read_recipe(recipe, changes)
    if training.share != 1:
        steps = round(read.config.schedule.iterations * training.share)
        changes.append(f"schedule.iterations={steps}")
        read = read_recipe(recipe, changes)
    return SeededTraining(training, seed, recipe, tuple(changes), read.config)


def with_changes(size: Size, changes: Sequence[str]) -> Size:
    """The size with further KEY=VALUE settings, for all its trainings."""
    about = f"{size.about}; changed: {', '.join(changes)}" if changes else size.about
    return replace(size, about=about, changes=(*size.changes, *changes))
