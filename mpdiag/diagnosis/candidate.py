"""A candidate: a cause, and the remedy that tests it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mpdiag.diagnosis.changes import Changes
from mpdiag.diagnosis.evidence import Evidence

Edit = Callable[[Evidence], Evidence]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible cause with its remedy: a change of the evidence, or changes to the model.

    Attributes:
        cause: name of the cause.
        edit: applies the remedy to evidence.
        changes: changes under which the model must run; None if `edit` is the remedy.
        is_observed: whether the cause is seen in the predictions, so that it is a finding even if
            its remedy gains nothing.
        layers, classes, queries, evidence: see `Finding`.
    """

    cause: str
    edit: Edit | None = None
    changes: Changes | None = None
    is_observed: bool = False
    layers: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()
    queries: tuple[int, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
