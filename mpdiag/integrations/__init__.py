"""Diagnosis and mask piloting inside the training loops of other libraries.

Each module is imported on first use, since it needs its own library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["detectron2", "lightning", "transformers"]

if TYPE_CHECKING:
    from mpdiag.integrations import detectron2, lightning, transformers


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
