"""The trainings of the paper's tables and figures, by name, at each size.

Rows of several tables share a training by its name (`reports.reproduction.table_rows`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mpdiag.config import TrainConfig
from mpdiag.errors import ConfigError
from reports.reproduction import OTHER_TARGETS, TABLES, table_rows
from trainers.methods import methods_of
from trainers.methods.piloted import Piloted
from trainers.recipe import load_recipe


@dataclass(frozen=True, slots=True)
class TiledDataset:
    """A data set that is cut into tiles (`mpdiag data prepare`)."""

    dataset: str
    side: int
    scale: int = 1

    @property
    def name(self) -> str:
        """Name of the folder of the tiles."""
        return f"{self.dataset}-{self.side}"


@dataclass(frozen=True, slots=True)
class ReproductionSize:
    """Size of the trainings.

    Attributes:
        recipe: base recipe of all trainings; None takes the packaged recipe of each.
        overrides: KEY=VALUE settings for all trainings.
        num_images: images of the synthetic train and val split; None takes the recipe's data set.
        tiles: data set to cut into tiles; None takes the recipe's data set.
        warm_start: KEY=VALUE settings of a training whose weights all others start from; empty for
            none.
        gpu_memory: GiB of GPU memory to reserve per training; limits the concurrent trainings.
        uses_all_gpus: whether a training runs on all GPUs, with torchrun.
    """

    name: str
    description: str
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    num_images: tuple[int, int] | None = None
    tiles: TiledDataset | None = None
    warm_start: tuple[str, ...] = ()
    gpu_memory: float = 80.0
    uses_all_gpus: bool = False

    @property
    def has_own_data(self) -> bool:
        """Whether the reproduction creates its data set."""
        return self.num_images is not None or self.tiles is not None


# The analysis evaluates the final model; no evaluation is needed during training.
_NO_EVALUATION = ("evaluate_every=null", "layer_metrics_every=null", "log_every=10")
_PHOTOS = "a small model with an ImageNet backbone on tiles of"
# ImageNet weights alone leave the pixel decoder random, which short trainings do not make up for.
_WARM_START = ("method=per-pixel", "schedule.iterations=800")

SIZES = {
    size.name: size
    for size in (
        ReproductionSize(
            "tiny",
            "a small model on synthetic shapes, 1,500 steps; minutes per training on two cores",
            recipe="synthetic-tiny",
            overrides=("schedule.iterations=1500", *_NO_EVALUATION),
            num_images=(6000, 1000),
            gpu_memory=4.0,
        ),
        ReproductionSize(
            "small",
            "the same model with four times as many steps and images; for one GPU",
            recipe="synthetic-tiny",
            overrides=("schedule.iterations=6000", *_NO_EVALUATION),
            num_images=(24000, 1000),
            gpu_memory=4.0,
        ),
        ReproductionSize(
            "photos",
            f"{_PHOTOS} facade photographs",
            recipe="photos-facade",
            overrides=_NO_EVALUATION,
            tiles=TiledDataset("facade", 128),
            warm_start=_WARM_START,
            gpu_memory=4.0,
        ),
        ReproductionSize(
            "photos-nuclei",
            f"{_PHOTOS} microscope images",
            recipe="photos-nuclei",
            overrides=_NO_EVALUATION,
            tiles=TiledDataset("nuclei", 64, scale=2),
            warm_start=_WARM_START,
            gpu_memory=4.0,
        ),
        ReproductionSize(
            "paper", "the published schedules on COCO and ADE20K, on all GPUs", uses_all_gpus=True
        ),
    )
}


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """A training of the tables.

    Attributes:
        overrides: KEY=VALUE settings that define it, on top of the recipe of a size.
        recipe: its packaged recipe at size paper; None if it has none.
        step_fraction: fraction of the size's steps that it takes.
    """

    name: str
    overrides: tuple[str, ...] = ()
    recipe: str | None = None
    step_fraction: float = 1.0


def _piloted(layers: int | str, noise: str, label_noise: float = 0.2) -> tuple[str, ...]:
    return (
        "method=piloted",
        f"pilot.layers={layers}",
        f"pilot.noise={noise}",
        f"pilot.label_noise={label_noise}",
    )


_ALL_LAYERS = _piloted("all", "point")
_UNMASKED = ("model.masked_attention=false",)

TRAININGS = {
    spec.name: spec
    for spec in (
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
        # Table 3: 36 of 50 epochs, and 80k of 160k steps.
        TrainingSpec("mp-72-percent", _ALL_LAYERS, step_fraction=0.72),
        TrainingSpec("mp-half", _ALL_LAYERS, step_fraction=0.5),
        # Not in the tables of the paper.
        TrainingSpec("unmasked", ("method=baseline", *_UNMASKED)),
        TrainingSpec("mp-unmasked", (*_ALL_LAYERS, *_UNMASKED)),
        TrainingSpec("mp-cell-noise", _piloted(3, "cell")),
        TrainingSpec("mp-neighbour-noise", _piloted(3, "neighbour")),
        TrainingSpec(
            "mp-feature-mean",
            (*_ALL_LAYERS, "pilot.query_input=feature-mean"),
            "appendix-d-feature-mean",
        ),
        TrainingSpec(
            "mp-mask-code", (*_ALL_LAYERS, "pilot.query_input=mask-code"), "appendix-d-mask-code"
        ),
        TrainingSpec("coco-mask2former-50-epochs", recipe="table3-mask2former-r50-coco-instance"),
        TrainingSpec("coco-mp-former-36-epochs", recipe="table3-mp-former-r50-coco-instance"),
        TrainingSpec("ade20k-mask2former-160k", recipe="table2-mask2former-r50-instance"),
        TrainingSpec("ade20k-mp-former-80k", recipe="table3-mp-former-r50-80k-instance"),
    )
}

_COMPARED = {word.partition("=")[0] for spec in TRAININGS.values() for word in spec.overrides}
_COMPARED |= {"seed"}


@dataclass(frozen=True, slots=True)
class SeededTraining:
    """A training at a size with a seed.

    Attributes:
        overrides: KEY=VALUE settings on top of `recipe`, which give `config`.
    """

    spec: TrainingSpec
    seed: int
    recipe: str
    overrides: tuple[str, ...]
    config: TrainConfig

    @property
    def name(self) -> str:
        """Name of its training directory, and prefix of the names of its runs."""
        return f"{self.spec.name}-seed-{self.seed}"

    @property
    def has_predictions(self) -> bool:
        """Whether it trains the decoder, so that its model can be analysed."""
        return all(method.trains_decoder for method in methods_of(self.config))

    @property
    def has_mp_part(self) -> bool:
        """Whether its MP part uses GT masks and can be analysed."""
        config = self.config
        return Piloted in methods_of(config) and config.pilot.query_input == "attention-mask"


def required_trainings(
    targets: Sequence[str], size: ReproductionSize, only: Sequence[str] = ()
) -> list[TrainingSpec]:
    """Return the trainings of these tables and figures, each once.

    Args:
        only: names of trainings to select, in this order; empty for all.

    Raises:
        ConfigError: a target is unknown, or has no training of a name in `only`.
    """
    names: dict[str, None] = {}
    for target in expand_targets(targets):
        rows = table_rows(target, as_published=size.recipe is None)
        names |= dict.fromkeys(row.training for row in rows)
    unknown = [name for name in only if name not in names]
    if unknown:
        raise ConfigError(
            f"--only {unknown[0]}: no training of these targets; choose from {', '.join(names)}"
        )
    return [TRAININGS[name] for name in dict.fromkeys(only or names)]


def expand_targets(targets: Sequence[str]) -> list[str]:
    """Return the tables and figures in the paper's order, with `all` replaced by the paper's.

    Raises:
        ConfigError: a target is unknown, or there is none.
    """
    unknown = [name for name in targets if name not in TABLES and name != "all"]
    if unknown or not targets:
        given = f"unknown target {unknown[0]!r}" if unknown else "no target"
        raise ConfigError(f"reproduce: {given}; choose from {', '.join(TABLES)} or all")
    of_paper = set() if "all" not in targets else TABLES.keys() - OTHER_TARGETS
    return [name for name in TABLES if name in targets or name in of_paper]


def configure_training(
    spec: TrainingSpec,
    seed: int,
    size: ReproductionSize,
    root: Path | None,
    init: Path | None = None,
) -> SeededTraining:
    """Return a training at a size.

    Args:
        root: folder of its data sets, if not the recipe's.
        init: initial weights, if not the recipe's.

    Raises:
        ConfigError: the training is not defined at this size.
    """
    recipe = size.recipe or spec.recipe
    if recipe is None:
        raise ConfigError(f"{spec.name}: has no recipe at --size {size.name}; choose another size")
    overrides = [*size.overrides, *(spec.overrides if size.recipe else ()), f"seed={seed}"]
    if root is not None:
        overrides.append(f"data.root={root}")
    if init is not None:
        overrides.append(f"init={init}")
    config = load_recipe(recipe, overrides)
    if spec.step_fraction != 1:
        steps = round(config.schedule.iterations * spec.step_fraction)
        overrides.append(f"schedule.iterations={steps}")
        config = load_recipe(recipe, overrides)
    return SeededTraining(spec, seed, recipe, tuple(overrides), config)


def configure_warm_start(size: ReproductionSize, root: Path | None) -> SeededTraining | None:
    """Return the training whose weights all others start from; None if the size has none."""
    if not size.warm_start:
        return None
    return configure_training(TrainingSpec("warm-start", size.warm_start), 0, size, root)


def select_size(name: str, overrides: Sequence[str] = ()) -> ReproductionSize:
    """Return a size by name, with further KEY=VALUE settings for all trainings.

    Raises:
        ConfigError: the size is unknown, or a setting is one in which the trainings differ.
    """
    if name not in SIZES:
        raise ConfigError(f"--size {name}: unknown size; choose from {', '.join(SIZES)}")
    size = SIZES[name]
    for word in overrides:
        key = word.partition("=")[0]
        if key in _COMPARED:
            option = "--seeds sets it" if key == "seed" else "--only selects some of them"
            raise ConfigError(f"{word}: the trainings of the tables differ in {key}; {option}")
    changed = f"; changed: {', '.join(overrides)}" if overrides else ""
    return replace(
        size,
        description=size.description + changed,
        overrides=(*size.overrides, *overrides),
    )
