"""What `mpdiag analyze` runs: a model under the recorder, over a data set, into a run directory."""

from mpdiag.analysis.measure import Part
from mpdiag.analysis.pipeline import analyze

__all__ = ["Part", "analyze"]
