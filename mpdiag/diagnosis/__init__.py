"""Diagnosis: what costs a model AP, how much, how sure that is, and what to change.

Reading a diagnosis does not import torch.
"""

from typing import TYPE_CHECKING, Any

from mpdiag.store.causes import CAUSES, Cause
from mpdiag.store.diagnosis import Diagnosis, Finding

if TYPE_CHECKING:
    from mpdiag.diagnosis.pipeline import diagnose

__all__ = ["CAUSES", "Cause", "Diagnosis", "Finding", "diagnose"]


def __getattr__(name: str) -> Any:
    if name != "diagnose":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mpdiag.diagnosis.pipeline import diagnose

    return diagnose
