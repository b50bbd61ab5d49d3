"""The result of a diagnosis, and diagnosis.json, which holds it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from mpdiag.errors import RunError
from mpdiag.store.causes import CAUSES
from mpdiag.store.files import replace_json
from mpdiag.untrusted import read_json

FILE_NAME = "diagnosis.json"
SCHEMA_VERSION = 1
MAX_FINDINGS = 100
MAX_VALUES = 100_000
THRESHOLD = 0.01
"""Score that a cause must cost to be a finding."""
SCORES = {"ap": "AP", "pq": "PQ", "miou": "mIoU"}
"""Label of each score: of instances, of panoptic segments, and of class maps."""


def points(fraction: float) -> str:
    """Format a score as points with a sign."""
    return f"{100 * fraction:+z.1f}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause of a lower score.

    Attributes:
        cause: name of `CAUSES`.
        at_stake: score that the remedy gains, after the remedies of all findings before this one.
        interval: 95% interval of `at_stake` over resampled images.
        layers, classes, queries: where it happens; class indices. Empty if all are
            concerned, or none stands out.
        evidence: numbers by name. `images` lists ids of images to look at.
        confidence: share of resamples in which the remedy gains.
    """

    cause: str
    at_stake: float
    interval: tuple[float, float]
    layers: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()
    queries: tuple[int, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
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
        score: score of the last layer, a fraction.
        findings: most important first.
        threshold: score that a cause must cost to be listed; predictions with NaN always are.
        num_images: images that were used.
        layers: measurements of each layer, see `mpdiag.diagnosis.layer_scores`.
        evidence: measurements that belong to no finding and no layer, by name.
        score_name: key of `SCORES`: "ap", "pq" or "miou".
        class_names: names of the classes that findings give as indices; empty if unknown.
    """

    score: float
    findings: Sequence[Finding]
    threshold: float
    num_images: int
    layers: Sequence[Mapping[str, Any]] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    score_name: str = "ap"
    class_names: Sequence[str] = ()

    @property
    def score_label(self) -> str:
        """Name of the score in text: AP, PQ or mIoU."""
        return SCORES[self.score_name]

    @property
    def headline(self) -> str:
        """The score and the number of images, in a sentence."""
        return f"{self.score_label} {100 * self.score:.1f} on {self.num_images:,} images."

    @property
    def summary(self) -> str:
        """The number of findings in a sentence, and in another what is observed but costs less."""
        less = [one.cause for one in self.findings if one.at_stake < self.threshold]
        count = len(self.findings) - len(less)
        limit = f"{100 * self.threshold:g} {self.score_label}"
        text = f"{count} {'cause costs' if count == 1 else 'causes cost'} more than {limit}."
        if not count:
            text = f"Nothing found that costs more than {limit}."
        return f"{text} Observed, but costs less: {', '.join(less)}." if less else text

    def __str__(self) -> str:
        """Return the score, the summary, and a line for each finding, in percentage points."""
        lines = [f"{self.headline} {self.summary}"]
        for finding in self.findings:
            gain, low, high = map(points, (finding.at_stake, *finding.interval))
            text = f"{finding.cause}: {gain} {self.score_label} (95% interval {low} to {high})."
            lines.append(f"{text} {finding.remedy}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return the content of diagnosis.json; all values are fractions."""
        return {
            "schema_version": SCHEMA_VERSION,
            "score": {"name": self.score_name, "value": self.score},
            "threshold": self.threshold,
            "num_images": self.num_images,
            "findings": [finding.as_json() for finding in self.findings],
            "layers": [dict(layer) for layer in self.layers],
            "evidence": dict(self.evidence),
            "class_names": list(self.class_names),
        }

    def write(self, path: str | Path) -> None:
        """Write diagnosis.json atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        replace_json(Path(path), self.as_json())

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read diagnosis.json.

        Raises:
            RunError: the file is unreadable, invalid, or of a newer schema version.
        """
        try:
            content = read_json(Path(path))
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: is not readable as JSON ({error}); diagnose again") from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise RunError(f"{path}: has schema_version {version}; update mpdiag")
        try:
            findings = [_finding(one) for one in content["findings"][:MAX_FINDINGS]]
            layers = [dict(one) for one in content.get("layers", [])[:MAX_FINDINGS]]
            return cls(
                score=float(content["score"]["value"]),
                findings=findings,
                threshold=float(content["threshold"]),
                num_images=int(content["num_images"]),
                layers=layers,
                evidence=dict(content.get("evidence", {})),
                score_name=_score_name(content["score"]["name"]),
                class_names=tuple(map(str, content.get("class_names", [])[:MAX_VALUES])),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RunError(f"{path}: is no diagnosis ({error}); diagnose again") from error


def _finding(content: Mapping[str, Any]) -> Finding:
    if content["cause"] not in CAUSES:
        raise ValueError("unknown cause")
    low, high = content["interval"]
    return Finding(
        cause=content["cause"],
        at_stake=float(content["at_stake"]),
        interval=(float(low), float(high)),
        layers=_integers(content["layers"]),
        classes=_integers(content["classes"]),
        queries=_integers(content["queries"]),
        evidence=dict(content["evidence"]),
        confidence=float(content["confidence"]),
    )


def _score_name(name: Any) -> str:
    if name not in SCORES:
        raise ValueError("unknown score")
    return str(name)


def _integers(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values[:MAX_VALUES])
