"""What `mpdiag analyze` runs: a model under the recorder, over a data set, into a run directory."""

from mpdiag.analysis.pipeline import analyze
from mpdiag.analysis.settings import Part
from mpdiag.analysis.shard import Shard, torchrun_shard

__all__ = ["Part", "Shard", "analyze", "torchrun_shard"]
