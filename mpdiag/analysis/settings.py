"""What the numbers of a run depend on besides checkpoint and data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.config import LossConfig
from mpdiag.errors import CheckpointError, ConfigError
from mpdiag.models import InstanceRule

Part = Literal["matching", "piloted"]
MatchPoints = int | Literal["all"]


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks of a run, as `mpdiag.analysis.analyze` explains it.

    `match_points` None leaves it to the checkpoint.
    """

    part: Part
    match_points: MatchPoints | None
    limit: int | None
    save_masks: str
    save_attention: bool
    evaluate: bool
    evaluate_layers: bool
    intervene: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """Kept in run.json; a run is only resumed under equal settings.

    `pilot_layers` is the number of decoder layers that attend within GT masks in the MP part,
    None for the matching part. `short_side` None keeps images at their own size, or leaves it to
    `image_processor`, the settings of another library's preprocessing. `evaluate` says whether the
    last layer's detections are kept and their AP computed, `evaluate_layers` whether those of all
    layers are, `inference` by whose post-processing. `intervene` is what was changed in
    the model (`mpdiag.analysis.interventions`).
    """

    class_cost: float
    mask_cost: float
    dice_cost: float
    match_points: MatchPoints
    short_side: int | None
    long_side: int | None
    limit: int | None
    pilot_layers: int | None
    save_masks: str
    save_attention: bool
    evaluate: bool
    evaluate_layers: bool
    inference: InstanceRule
    intervene: tuple[str, ...]
    image_processor: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """As run.json has them; other libraries' settings only where there are some.

        So is `save_attention`: runs that were begun before it was known can be resumed.
        """
        values = asdict(self)
        if not self.save_attention:
            del values["save_attention"]
        if self.image_processor is None:
            del values["image_processor"]
        return values


def settings_for(
    request: Request,
    loss: LossConfig,
    *,
    size: tuple[int | None, int | None] = (None, None),
    pilot_layers: int | None = None,
    inference: InstanceRule = "mask2former",
    image_processor: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings of a run on a model that was trained with `loss`."""
    evaluate = request.part == "matching"
    return Settings(
        class_cost=loss.class_weight,
        mask_cost=loss.mask_weight,
        dice_cost=loss.dice_weight,
        match_points=loss.points if request.match_points is None else request.match_points,
        short_side=size[0],
        long_side=size[1],
        limit=request.limit,
        pilot_layers=pilot_layers,
        save_masks=request.save_masks,
        save_attention=request.save_attention,
        evaluate=(request.evaluate or request.evaluate_layers) and evaluate,
        evaluate_layers=request.evaluate_layers and evaluate,
        inference=inference,
        intervene=request.intervene,
        image_processor=image_processor,
    )


def own_settings(loaded: LoadedCheckpoint, request: Request) -> Settings:
    """The settings of a run: as the checkpoint's recipe or config says, else as published."""
    return settings_for(
        request,
        loaded.setup.loss if loaded.setup else LossConfig(),
        size=loaded.image_size,
        pilot_layers=_pilot_layers(loaded) if request.part == "piloted" else None,
    )


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


def parse_match_points(text: str | None) -> MatchPoints | None:
    """`--match-points` as given on the command line; ConfigError unless a number or `all`."""
    if text is None:
        return None
    if text == "all":
        return "all"
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise ConfigError(f"--match-points {text}: give a number of points, or all")
