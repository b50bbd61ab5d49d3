"""Results of trainings, by name and seed, and what is missing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpdiag.errors import RunError
from mpdiag.store import Run
from reports.reproduction.training_log import logged_steps, training_seconds

MATCHING, PILOTED = "matching", "piloted"


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A training with a seed: its directory, the run of each part, and its number of steps."""

    name: str
    seed: int
    directory: Path
    parts: Mapping[str, Path]
    steps: int


@dataclass(frozen=True, slots=True)
class SummaryMetric:
    """A value of summary.json: a score of the last layer, or a metric of one or of all layers.

    Attributes:
        key: a score (ap, ap_small, ...) or one of `LAYER_METRICS`.
        label: text in reports.
        layer: one layer; None gives a score, or the mean over layers 1..L. The mean of Util leaves
            out layer L, where it is 100% by definition.
    """

    key: str
    label: str
    layer: int | None = None

    @property
    def name(self) -> str:
        """Key, and layer if it has one."""
        return self.key if self.layer is None else f"{self.key}/{self.layer}"

    def value(self, summary: dict[str, Any]) -> float | None:
        """Return the value, a fraction; None if the run has none."""
        scores = summary.get("ap") or {}
        if self.key.startswith("ap"):
            return scores.get(self.key)
        layers = summary["layers"]
        if self.layer is not None:
            return layers[self.layer - 1].get(self.key) if self.layer <= len(layers) else None
        chosen = layers[:-1] if self.key == "util" else layers
        values = [layer.get(self.key) for layer in chosen]
        known = [value for value in values if value is not None]
        return math.fsum(known) / len(known) if known else None


@dataclass(slots=True)
class TrainingResults:
    """Results of trainings.

    Attributes:
        runs: finished runs by name, seed and part.
        seconds: time of each training's steps by name and seed.
        missing: a sentence for each training and run that is missing or unfinished.
    """

    runs: dict[tuple[str, int, str], Run] = field(default_factory=dict)
    seconds: dict[tuple[str, int], float | None] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, trained: Sequence[TrainedRun]) -> "TrainingResults":
        """Open the finished runs and list what is missing."""
        results = cls()
        for one in trained:
            steps = logged_steps(one.directory)
            if not (one.directory / "model_final.pth").is_file() and steps < one.steps:
                results.missing.append(
                    f"{one.directory.name} is not trained: {steps:,} of {one.steps:,} steps"
                )
                continue
            results.seconds[one.name, one.seed] = training_seconds(one.directory)
            for part, path in one.parts.items():
                try:
                    results.runs[one.name, one.seed, part] = Run.open(path)
                except RunError as error:
                    results.missing.append(str(error).replace(str(path), path.name))
        return results

    def values(
        self, training: str, metric: SummaryMetric, part: str = MATCHING
    ) -> dict[int, float | None]:
        """Return the values of a training's part by seed."""
        return {
            seed: metric.value(run.summary)
            for (name, seed, own), run in self.runs.items()
            if (name, own) == (training, part)
        }

    def hours(self, training: str) -> dict[int, float | None]:
        """Return the hours of a training's steps by seed."""
        return {
            seed: None if seconds is None else seconds / 3600
            for (name, seed), seconds in self.seconds.items()
            if name == training
        }

    def first_run(self, training: str, part: str = MATCHING) -> Run | None:
        """Return the run of the lowest seed; None if there is none."""
        seeds = [seed for name, seed, own in self.runs if (name, own) == (training, part)]
        return self.runs[training, min(seeds), part] if seeds else None

    @property
    def seeds(self) -> list[int]:
        """Seeds with a finished training."""
        return sorted({seed for _, seed in self.seconds})

    @property
    def num_layers(self) -> int:
        """The largest L of all runs."""
        return max((run.num_layers for run in self.runs.values()), default=0)
