"""What the numbers of a run depend on besides checkpoint and data."""

from dataclasses import dataclass
from typing import Literal

from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.config import DataConfig, LossConfig, ModelConfig, TrainConfig
from mpdiag.errors import ConfigError

SHORT_SIDE, LONG_SIDE = 800, 1333  # of the published models at inference
MATCH_POINTS = 12544


@dataclass(frozen=True, slots=True)
class Settings:
    """Kept in run.json; a run is only resumed under equal settings.

    `pilot_layers` is the number of decoder layers that attend within GT masks in the MP part,
    None for the matching part. `short_side` None keeps images at their own size.
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


def settings_for(
    loaded: LoadedCheckpoint,
    *,
    piloted: bool,
    match_points: int | Literal["all"] | None,
    limit: int | None,
    save_masks: str,
) -> Settings:
    """The settings of a run: the checkpoint's own recipe where it has one, else as published."""
    recipe = loaded.recipe
    loss = recipe.loss if recipe else LossConfig()
    data = recipe.data if recipe else DataConfig(short_side=SHORT_SIDE, long_side=LONG_SIDE)
    if match_points is None:
        match_points = loss.points if recipe else MATCH_POINTS
    return Settings(
        class_cost=loss.class_weight,
        mask_cost=loss.mask_weight,
        dice_cost=loss.dice_weight,
        match_points=match_points,
        short_side=data.short_side,
        long_side=data.long_side,
        limit=limit,
        pilot_layers=_pilot_layers(recipe, loaded.model.config) if piloted else None,
        save_masks=save_masks,
    )


def _pilot_layers(recipe: TrainConfig | None, model: ModelConfig) -> int:
    """GT masks are fed in as many layers as in training; in all where training is not known."""
    if recipe is not None and recipe.method == "piloted":
        return min(recipe.pilot.layers, model.decoder_layers)
    return model.decoder_layers


def parse_match_points(text: str | None) -> int | Literal["all"] | None:
    """`--match-points` as given on the command line; ConfigError unless a number or `all`."""
    if text is None:
        return None
    if text == "all":
        return "all"
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise ConfigError(f"--match-points {text}: give a number of points, or all")
