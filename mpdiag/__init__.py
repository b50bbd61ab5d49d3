"""mpdiag: diagnose query-based segmentation models, decoder layer by decoder layer.

`__all__` is the public interface. Names are imported on first use, so that the dashboard and the
reports open a run directory without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_PUBLIC = {
    "CustomModel": "mpdiag.checkpoints",
    "LayerMonitor": "mpdiag.integrations.monitor",
    "analyze": "mpdiag.analysis",
    "diagnose": "mpdiag.diagnosis",
    "load_model": "mpdiag.checkpoints",
    "record": "mpdiag.recording",
}

__all__ = [
    "CustomModel",
    "LayerMonitor",
    "__version__",
    "analysis",
    "analyze",
    "checkpoints",
    "data",
    "diagnose",
    "diagnosis",
    "errors",
    "integrations",
    "load_model",
    "matching",
    "metrics",
    "ops",
    "record",
    "recording",
    "store",
]

if TYPE_CHECKING:
    from mpdiag import (
        analysis,
        checkpoints,
        data,
        diagnosis,
        errors,
        integrations,
        matching,
        metrics,
        ops,
        recording,
        store,
    )
    from mpdiag.analysis import analyze
    from mpdiag.checkpoints import CustomModel, load_model
    from mpdiag.diagnosis import diagnose
    from mpdiag.integrations.monitor import LayerMonitor
    from mpdiag.recording import record


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in __all__:
        return import_module(f"mpdiag.{name}")
    raise AttributeError(f"module 'mpdiag' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
