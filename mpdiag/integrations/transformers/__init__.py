"""Diagnosis and mask piloting for models and the Trainer of transformers.

Names are imported on first use, so that each needs only its own dependencies.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mpdiag.extras import require

_PUBLIC = {
    "LayerDiagnosticsCallback": "callback",
    "MaskPiloting": "mask_piloting",
    "SegmentationMetrics": "metrics",
}

__all__ = ["LayerDiagnosticsCallback", "MaskPiloting", "SegmentationMetrics"]

if TYPE_CHECKING:
    from mpdiag.integrations.transformers.callback import LayerDiagnosticsCallback
    from mpdiag.integrations.transformers.mask_piloting import MaskPiloting
    from mpdiag.integrations.transformers.metrics import SegmentationMetrics


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        require("transformers", f"mpdiag.integrations.transformers.{name}")
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
