"""Bipartite matching under the settings of a run."""

from collections.abc import Sequence

from torch import Tensor

from mpdiag.analysis.settings import AnalysisSettings
from mpdiag.matching import Matches, MatchingCosts, Target, finite_queries, match_with_costs
from mpdiag.ops import seeded_points

POINT_SEED = 0


class Matcher:
    """Match predictions to GT with the same costs and points for all images and layers."""

    def __init__(self, settings: AnalysisSettings) -> None:
        model, points = settings.model, settings.options.match_points
        self.costs = MatchingCosts(model.class_cost, model.mask_cost, model.dice_cost)
        self.points = seeded_points(points, POINT_SEED) if isinstance(points, int) else None

    def __call__(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        targets: Sequence[Target],
        finite: Tensor | None = None,
    ) -> Matches:
        """Match all layers; see `match_with_costs`. `finite` is computed where it is None."""
        if finite is None:
            finite = finite_queries(class_logits, mask_logits)
        if self.points is not None:
            self.points = self.points.to(mask_logits.device)
        return match_with_costs(
            class_logits, mask_logits, targets, finite, costs=self.costs, points=self.points
        )
