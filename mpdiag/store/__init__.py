"""The run directory: `RunWriter` writes it, `Run` reads it, without torch.

docs/run-directory.md describes files and columns, docs/metrics.md the metrics.
"""

from mpdiag.store.comparison import Comparison, compare
from mpdiag.store.layer_metrics import LAYER_METRICS, LayerMetric
from mpdiag.store.run import Run
from mpdiag.store.schema import SCHEMA_VERSION
from mpdiag.store.transitions import Thresholds
from mpdiag.store.writer import RunWriter

__all__ = [
    "LAYER_METRICS",
    "SCHEMA_VERSION",
    "Comparison",
    "LayerMetric",
    "Run",
    "RunWriter",
    "Thresholds",
    "compare",
]
