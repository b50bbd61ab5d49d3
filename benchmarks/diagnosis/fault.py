"""Declaration of a planted fault."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpdiag.checkpoints import LoadedCheckpoint

CocoContent = dict[str, Any]
Severities = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault with a known cause.

    Attributes:
        name: name in results and tables.
        cause: the cause that a diagnosis must report.
        severities: six, from mild to severe. Those at even positions are for development, those at
            odd positions for the report.
        severity_unit: what the severity measures.
    """

    name: str
    cause: str
    severities: Severities
    severity_unit: str


@dataclass(frozen=True, slots=True)
class ModelFault(Fault):
    """A fault in weights, preprocessing or forward pass.

    `plant` changes a copy of a checkpoint in place, with a severity and a source of randomness.
    """

    plant: Callable[[LoadedCheckpoint, float, np.random.Generator], None]


@dataclass(frozen=True, slots=True)
class AnnotationFault(Fault):
    """A fault in the ground truth.

    `plant` changes a copy of the content of a COCO instance file in place.
    """

    plant: Callable[[CocoContent, float, np.random.Generator], None]


def choose(generator: np.random.Generator, count: int, share: float) -> list[int]:
    """Draw a share of `range(count)`, at least one, in ascending order."""
    number = min(max(round(share * count), 1), count)
    return sorted(int(index) for index in generator.choice(count, number, replace=False))
