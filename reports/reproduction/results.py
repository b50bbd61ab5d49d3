"""Finished runs of trainings, by name and seed; what is missing has a name."""

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
    """Where a training with a seed and the runs of its parts are; `steps` is how many it takes."""

    name: str
    seed: int
    directory: Path
    parts: Mapping[str, Path]
    steps: int


@dataclass(frozen=True, slots=True)
class SummaryMetric:
    """A number of a run: a score of the last layer, or a value of a layer or of several.

    Attributes:
        key: in summary.json, of its scores (ap, ap_small, ...) or of its layers (util, ...).
        layer: which one; None of a value of layers: the mean over 1..L, without L for Util, where
            it is 100% by definition.
        label: for readers.
    """

    key: str
    label: str
    layer: int | None = None

    def of(self, summary: dict[str, Any]) -> float | None:
        """Its value, a fraction; None where the run has none."""
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
    """What there is of some trainings.

    Attributes:
        runs: the finished ones, by name, seed and part.
        clocks: seconds of each training's steps, by name and seed.
        missing: a sentence for each training and run that is not there in full.
    """

    runs: dict[tuple[str, int, str], Run] = field(default_factory=dict)
    clocks: dict[tuple[str, int], float | None] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, trained: Sequence[TrainedRun]) -> "TrainingResults":
        """Open what is finished, note what is not."""
        found = cls()
        for one in trained:
            done = logged_steps(one.directory)
            if not (one.directory / "model_final.pth").is_file() and done < one.steps:
                found.missing.append(
                    f"{one.directory.name} is not trained: {done:,} of {one.steps:,} steps"
                )
                continue
            found.clocks[one.name, one.seed] = training_seconds(one.directory)
            for part, path in one.parts.items():
                try:
                    found.runs[one.name, one.seed, part] = Run.open(path)
                except RunError as error:
                    found.missing.append(str(error).replace(str(path), path.name))
        return found

    def values(
        self, name: str, measure: SummaryMetric, part: str = MATCHING
    ) -> dict[int, float | None]:
        """A number of a training's part by seed."""
        return {
            seed: measure.of(run.summary)
            for (of, seed, own), run in self.runs.items()
            if (of, own) == (name, part)
        }

    def hours(self, name: str) -> dict[int, float | None]:
        """Clock time of a training's steps by seed."""
        return {
            seed: None if seconds is None else seconds / 3600
            for (of, seed), seconds in self.clocks.items()
            if of == name
        }

    def first(self, name: str, part: str = MATCHING) -> Run | None:
        """The run of the lowest seed."""
        found = [
            (seed, run) for (of, seed, own), run in self.runs.items() if (of, own) == (name, part)
        ]
        return min(found, key=lambda pair: pair[0])[1] if found else None

    @property
    def num_layers(self) -> int:
        """L, the most of any run."""
        return max((run.num_layers for run in self.runs.values()), default=0)
