"""The result of a diagnosis and its JSON form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpdiag.diagnosis.causes import CAUSES

SCHEMA_VERSION = 1
THRESHOLD = 0.01
"""AP that a cause must cost to be a finding."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause of lost AP.

    Attributes:
        cause: name of `CAUSES`.
        at_stake: AP that the remedy gains, after the remedies of all findings before this one.
        interval: 95% interval of `at_stake` over resampled images.
        layers, classes, queries: where it happens; class indices. Empty for all.
        evidence: numbers by name. `images` lists ids of images to look at.
        confidence: share of resamples in which the remedy gains.
    """

    cause: str
    at_stake: float
    interval: tuple[float, float]
    layers: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()
    queries: tuple[int, ...] = ()
    evidence: Mapping[str, Any] = ()  # type: ignore[assignment]
    confidence: float = 1.0

    @property
    def remedy(self) -> str:
        """What to do, with the address of the description."""
        cause = CAUSES[self.cause]
        return f"{cause.remedy} {cause.link}"

    def as_json(self) -> dict[str, Any]:
        """Return the finding as in diagnosis.json."""
        return {
            "cause": self.cause,
            "at_stake": self.at_stake,
            "interval": list(self.interval),
            "layers": list(self.layers),
            "classes": list(self.classes),
            "queries": list(self.queries),
            "evidence": dict(self.evidence),
            "remedy": self.remedy,
            "confidence": self.confidence,
        }


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Ranked findings about a model or a run.

    Attributes:
        score: AP of the last layer.
        findings: most important first.
        threshold: AP that a cause must cost to be listed.
        num_images: images that were used.
    """

    score: float
    findings: Sequence[Finding]
    threshold: float
    num_images: int

    def as_json(self) -> dict[str, Any]:
        """Return the content of diagnosis.json; all values are fractions."""
        return {
            "schema_version": SCHEMA_VERSION,
            "score": {"name": "ap", "value": self.score},
            "threshold": self.threshold,
            "num_images": self.num_images,
            "findings": [finding.as_json() for finding in self.findings],
        }
