"""Try changes to the model on the first images."""

from dataclasses import dataclass, field

from mpdiag.diagnosis.changes import Changes
from mpdiag.diagnosis.collect import Collector
from mpdiag.diagnosis.evidence import Evidence

SCREENED = 16  # images on which a change is tried first


@dataclass(frozen=True, slots=True)
class Trials:
    """Tries changes to the model on the first images, to save the forward passes of the others.

    Attributes:
        collector: runs the model.
        base: evidence of all images, before the changes.
        gains: score that each change gains on the first images, by name; filled by the trials.
    """

    collector: Collector
    base: Evidence
    gains: dict[str, float] = field(default_factory=dict)

    @property
    def first(self) -> Evidence:
        """The evidence of the first images with GT, without changes."""
        return self.base.changed([self.base.images[place] for place in self._places])

    def collect(
        self, changes: Changes, *, every_layer: bool = False, stored: bool = True
    ) -> Evidence:
        """Collect the evidence of the first images with GT under changes.

        The options are those of `Collector.collect`.
        """
        indices = [self.collector.indices[place] for place in self._places]
        return self.collector.collect(
            changes, every_layer=every_layer, indices=indices, stored=stored
        )

    @property
    def _places(self) -> list[int]:
        """Places of the first images with GT; the others alone have no score."""
        images = enumerate(self.base.images)
        return [place for place, image in images if not image.gt_crowd.all()][:SCREENED]

    def best(
        self, cause: str, changes: dict[str, Changes], min_gain: float = 0.0
    ) -> tuple[str, Changes] | None:
        """Return name and changes of the highest score, None if none gains more than `min_gain`."""
        own = self.first.score()
        gains = {name: self.collect(one).score() - own for name, one in changes.items()}
        self.gains.update({f"{cause} {name}": gain for name, gain in gains.items()})
        name = max(gains, key=lambda one: gains[one])
        return (name, changes[name]) if gains[name] > min_gain else None
