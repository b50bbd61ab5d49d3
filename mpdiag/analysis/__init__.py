"""Analysis: run a model on a data set, measure all its layers, and write a run directory.

Importing `AnalysisOptions` alone does not import torch.
"""

from typing import TYPE_CHECKING, Any

from mpdiag.analysis.options import AnalysisOptions
from mpdiag.choices import Part

if TYPE_CHECKING:
    from mpdiag.analysis.pipeline import analyze, prepare_run
    from mpdiag.analysis.shard import Shard, torchrun_shard

__all__ = ["AnalysisOptions", "Part", "Shard", "analyze", "prepare_run", "torchrun_shard"]

_MODULES = {
    "analyze": "pipeline",
    "prepare_run": "pipeline",
    "Shard": "shard",
    "torchrun_shard": "shard",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
