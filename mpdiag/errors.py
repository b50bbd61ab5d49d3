"""Errors that mpdiag raises.

    MpdiagError                 base class; the message is one line that names the cause and the fix
    ├── ConfigError             invalid recipe, override or setting
    ├── CheckpointError         unreadable checkpoint or unknown model
    │   └── UnsafeCheckpointError   checkpoint that would run code when loaded
    ├── DataError               missing or broken data set, annotation file or image
    ├── RunError                unreadable or unfinished run directory, or one of another run
    ├── OutputError             file that cannot be written
    ├── RecordingError          module that cannot be recorded
    ├── TrainingError           training that cannot continue
    │   └── NonFiniteError          NaN or infinite loss or matching cost
    └── DependencyError         missing optional package

The command line prints them, and an OSError of a path, as one line and exits with code 2. Any other
exception is a bug in mpdiag.
"""

import errno
import shutil
from pathlib import Path

from mpdiag.printable import printable

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class MpdiagError(Exception):
    """Base class of all errors that a user can fix; its text is one printable line."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(MpdiagError):
    """A recipe, an override or a setting is invalid."""


class CheckpointError(MpdiagError):
    """A file is not a readable checkpoint of a known model."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint would run code when loaded."""


class DataError(MpdiagError):
    """A data set, an annotation file or an image is missing or broken."""


class RunError(MpdiagError):
    """A run directory is unreadable, unfinished, or of another run."""


class OutputError(MpdiagError):
    """A file cannot be written, for example because the disk is full."""


class RecordingError(MpdiagError):
    """A module cannot be recorded: its family is unknown or its calls are unexpected."""


class TrainingError(MpdiagError):
    """A training cannot continue."""


class NonFiniteError(TrainingError):
    """A loss or a matching cost is NaN or infinite.

    Attributes:
        term: the loss or the cost.
        layer: decoder layer, or None if the term has no layer.
        image: position in the batch, or None if unknown.
    """

    def __init__(self, term: str, layer: int | None, image: int | None) -> None:
        where = [] if layer is None else [f"layer {layer}"]
        where += [] if image is None else [f"image {image} of the batch"]
        place = f" of {', '.join(where)}" if where else ""
        super().__init__(
            f"{term}{place} is not finite: the model's outputs contain NaN or infinity there"
        )
        self.term, self.layer, self.image = term, layer, image


class DependencyError(MpdiagError):
    """A required optional package is not installed."""


def describe_os_error(error: OSError, path: Path) -> str:
    """Return the reason of an error, and the free space if the disk of `path` is full."""
    reason = error.strerror or str(error)
    if error.errno in _DISK_FULL:
        reason += f", {shutil.disk_usage(path.absolute().parent).free / 2**20:,.1f} MiB free"
    return reason
