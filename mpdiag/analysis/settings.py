"""What the numbers of a run depend on besides checkpoint and data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.config import LossConfig
from mpdiag.errors import CheckpointError, ConfigError

SHORT_SIDE, LONG_SIDE = 800, 1333  # of the published models at inference


@dataclass(frozen=True, slots=True)
class Settings:
    """Kept in run.json; a run is only resumed under equal settings.

    `pilot_layers` is the number of decoder layers that attend within GT masks in the MP part,
    None for the matching part. `short_side` None keeps images at their own size. `evaluate` says
    whether the last layer's detections are kept and their AP computed, `evaluate_layers` whether
    those of all layers are. `intervene` is what was changed in the model
    (`mpdiag.analysis.interventions`).
    """

    class_cost: float
    mask_cost: float
    dice_cost: float
    match_points: int | Literal["all"]
    short_side: int | None
    long_side: int
    limit: int | None
    pilot_layers: int | None
    save_masks: str
    evaluate: bool
    evaluate_layers: bool
    intervene: tuple[str, ...]


def settings_for(
    loaded: LoadedCheckpoint,
    *,
    piloted: bool,
    match_points: int | Literal["all"] | None,
    limit: int | None,
    save_masks: str,
    evaluate: bool,
    evaluate_layers: bool,
    intervene: Sequence[str],
) -> Settings:
    """The settings of a run: as the checkpoint's recipe or config says, else as published."""
    loss = loaded.setup.loss if loaded.setup else LossConfig()
    short_side, long_side = _image_size(loaded)
    if match_points is None:
        match_points = loss.points
    return Settings(
        class_cost=loss.class_weight,
        mask_cost=loss.mask_weight,
        dice_cost=loss.dice_weight,
        match_points=match_points,
        short_side=short_side,
        long_side=long_side,
        limit=limit,
        pilot_layers=_pilot_layers(loaded) if piloted else None,
        save_masks=save_masks,
        evaluate=evaluate,
        evaluate_layers=evaluate_layers,
        intervene=tuple(intervene),
    )


def _image_size(loaded: LoadedCheckpoint) -> tuple[int | None, int]:
    """Shorter and longer side of images at inference; a recipe's None keeps their own size."""
    if loaded.recipe is not None:
        return loaded.recipe.data.short_side, loaded.recipe.data.long_side
    setup = loaded.setup
    return (setup and setup.short_side) or SHORT_SIDE, (setup and setup.long_side) or LONG_SIDE


def _pilot_layers(loaded: LoadedCheckpoint) -> int:
    """GT masks are fed in as many layers as in training; in all where training is not known."""
    recipe, layers = loaded.recipe, loaded.model.config.decoder_layers
    if recipe is not None and recipe.pilot.feed != "attention-mask":
        raise CheckpointError(
            f"{loaded.path}: was trained with pilot.feed = {recipe.pilot.feed}, whose MP part has "
            "no GT masks as attention masks; analyse its matching part"
        )
    if recipe is None or recipe.pilot.layers == "all":
        return layers
    return min(recipe.pilot.layers, layers)


def parse_match_points(text: str | None) -> int | Literal["all"] | None:
    """`--match-points` as given on the command line; ConfigError unless a number or `all`."""
    if text is None:
        return None
    if text == "all":
        return "all"
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise ConfigError(f"--match-points {text}: give a number of points, or all")
