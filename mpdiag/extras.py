"""Optional packages, and the error that says how to install a missing one."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mpdiag.errors import DependencyError

EXTRAS = {
    "lightning": "lightning",
    "plotly": "dashboard",
    "streamlit": "dashboard",
    "supervision": "export",
    "tensorboard": "train",
    "transformers": "transformers",
}
"""Import name of an optional package -> extra of mpdiag that installs it."""

_OTHER_WAYS = {
    "detectron2": "to install it, see docs/detectron2.md",
    "wandb": "pip install wandb",
}


def import_optional(package: str, purpose: str) -> Any:
    """Import a package that mpdiag does not install by default.

    Args:
        package: import name.
        purpose: what needs the package, for the message.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError:
        require(package, purpose)
        raise  # the package is installed, but cannot import one that it needs itself


def require(package: str, purpose: str) -> None:
    """Check that a package is installed, without importing it.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        found = find_spec(package) is not None
    except ValueError:  # a module that was made, not found, as in tests
        found = True
    if not found:
        raise missing(package, purpose)


def missing(package: str, purpose: str) -> DependencyError:
    """Return the error for a package that is not installed; the caller raises it."""
    return DependencyError(f"{package}: is not installed, and {purpose} needs it; {_fix(package)}")


def missing_of(error: ModuleNotFoundError) -> DependencyError | None:
    """Return the error for a failed import of an optional package; None for any other module."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS and package not in _OTHER_WAYS:
        return None
    return missing(package, "this command")


def _fix(package: str) -> str:
    extra = EXTRAS.get(package)
    return _OTHER_WAYS[package] if extra is None else f"pip install 'mpdiag[{extra}]'"
