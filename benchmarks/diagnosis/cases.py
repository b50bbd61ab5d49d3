"""The cases of the benchmark, in a development half and a reporting half.

The halves share no severity and no image. Faults, checks and thresholds are
developed on the first one only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from benchmarks.diagnosis.faults import FAULTS
from mpdiag.errors import ConfigError

Half = Literal["development", "reporting"]
HALVES: tuple[Half, ...] = get_args(Half)

SEEDS: dict[Half, tuple[int, ...]] = {"development": (0, 1, 2), "reporting": (3, 4, 5)}
"""Seeds of the images and of the draws of faults."""

HEALTHY_RUNS = 10
SEVERITIES = ("mild", "medium", "severe")


@dataclass(frozen=True, slots=True)
class Case:
    """One diagnosis.

    Attributes:
        half: half of the benchmark.
        fault: name of the planted fault; None for the healthy model.
        level: position in SEVERITIES.
        seed: seed of the images and of the draws of the fault.
    """

    half: Half
    fault: str | None
    level: int
    seed: int

    @property
    def name(self) -> str:
        """Unique name."""
        what = f"{self.fault}-{SEVERITIES[self.level]}" if self.fault else "healthy"
        return f"{what}-seed-{self.seed}"

    @property
    def severity(self) -> float:
        """Severity of the fault; 0 without."""
        if self.fault is None:
            return 0.0
        return FAULTS[self.fault].severities[2 * self.level + HALVES.index(self.half)]


def list_cases(half: Half, names: Sequence[str] = (), *, quick: bool = False) -> list[Case]:
    """Return the cases of a half: the healthy runs, then those of each fault.

    Args:
        half: half of the benchmark.
        names: faults; all by default. "healthy" stands for the healthy runs.
        quick: one severe case per fault and one healthy run.

    Raises:
        ConfigError: a fault is unknown.
    """
    unknown = [name for name in names if name not in FAULTS and name != "healthy"]
    if unknown:
        raise ConfigError(
            f"--fault {unknown[0]}: is unknown; choose from healthy, {', '.join(FAULTS)}"
        )
    seeds = SEEDS[half][:1] if quick else SEEDS[half]
    runs = range(1 if quick else HEALTHY_RUNS)
    healthy = [Case(half, None, 0, 1000 * (1 + seeds[0]) + run) for run in runs]
    planted = [
        Case(half, name, level, seed)
        for name in FAULTS
        for level in range(len(SEVERITIES))
        for seed in seeds
        if not quick or level == len(SEVERITIES) - 1
    ]
    return [case for case in healthy + planted if not names or (case.fault or "healthy") in names]
