"""Settings of a run: what its numbers depend on besides checkpoint and data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from mpdiag.analysis.options import AnalysisOptions, MatchPoints
from mpdiag.config import LossConfig
from mpdiag.matching import Matcher, MatchingCosts
from mpdiag.recording import InstanceRule


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Settings that the model determines.

    Attributes:
        class_cost, mask_cost, dice_cost: weights of the matching costs.
        match_points: number of points to match on, unless an option says otherwise.
        short_side, long_side: size of resized images in pixels; None if images keep their size or
            an image processor resizes them.
        pilot_layers: number of decoder layers that attend within GT masks; None for the matching
            part.
        inference: postprocessing of instances.
        image_processor: settings of the preprocessing of another library.
    """

    class_cost: float
    mask_cost: float
    dice_cost: float
    match_points: MatchPoints
    short_side: int | None = None
    long_side: int | None = None
    pilot_layers: int | None = None
    inference: InstanceRule = "mask2former"
    image_processor: Mapping[str, Any] | None = None

    @classmethod
    def from_loss(cls, loss: LossConfig, **others: Any) -> Self:
        """Take the costs and points of matching from those of training."""
        return cls(
            class_cost=loss.class_weight,
            mask_cost=loss.mask_weight,
            dice_cost=loss.dice_weight,
            match_points=loss.num_points,
            **others,
        )


@dataclass(frozen=True, slots=True)
class AnalysisSettings:
    """Settings of a run, in run.json. A run can only be resumed with equal settings."""

    model: ModelSettings
    options: AnalysisOptions

    @classmethod
    def derive(cls, model: ModelSettings, options: AnalysisOptions) -> Self:
        """Fill in the options that depend on the model or on each other."""
        matching = options.part == "matching"
        points = options.match_points
        resolved = replace(
            options,
            match_points=model.match_points if points is None else points,
            evaluate=(options.evaluate or options.evaluate_layers) and matching,
            evaluate_layers=options.evaluate_layers and matching,
        )
        return cls(model, resolved)

    def matcher(self) -> Matcher:
        """Return the matching of the run."""
        model, points = self.model, self.options.match_points
        costs = MatchingCosts(model.class_cost, model.mask_cost, model.dice_cost)
        return Matcher.on_fixed_points(costs, points or "all")

    def as_json(self) -> dict[str, Any]:
        """Return the content for run.json.

        `save_attention` and `image_processor` are left out where they are not set, as in the first
        runs, which did not know them.
        """
        values = {**asdict(self.model), **self.options.stored()}
        for name in ("save_attention", "image_processor"):
            if not values[name]:
                del values[name]
        return values
