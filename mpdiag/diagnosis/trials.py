"""Try changes to the model on the first images."""

from dataclasses import dataclass

from mpdiag.diagnosis.changes import Changes
from mpdiag.diagnosis.collect import Collector
from mpdiag.diagnosis.evidence import Evidence

SCREENED = 16  # images on which a change is tried first


@dataclass(frozen=True, slots=True)
class Trials:
    """Tries changes to the model on the first images, to save the forward passes of the others."""

    collector: Collector
    base: Evidence

    @property
    def first(self) -> Evidence:
        """The evidence of the first images, without changes."""
        return self.base.changed(self.base.images[:SCREENED])

    def collect(self, changes: Changes) -> Evidence:
        """Collect the evidence of the first images under changes."""
        return self.collector.collect(changes, indices=self.collector.indices[:SCREENED])

    def best(
        self, cause: str, changes: dict[str, Changes], min_gain: float = 0.0
    ) -> tuple[str, Changes] | None:
        """Return name and changes of the highest score, None if none gains more than `min_gain`."""
        own = self.first.score()
        gains = {name: self.collect(one).score() - own for name, one in changes.items()}
        self.collector.gains |= {f"{cause} {name}": gain for name, gain in gains.items()}
        name = max(gains, key=lambda one: gains[one])
        return None if gains[name] <= min_gain else (name, changes[name])
