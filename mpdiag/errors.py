"""Every error that a user can meet, as one tree.

    MpdiagError                 one sentence that names the file, key or image and the mend; exit 2
    ├── ConfigError             a recipe, an override or a setting
    ├── CheckpointError         a file that is no readable checkpoint of a known model
    │   └── UnsafeCheckpointError   a checkpoint that would run code when loaded
    ├── DataError               a data set, an annotation file or an image
    ├── RunError                a run directory: unreadable, unfinished, or holding another run
    ├── RecordingError          a module that the recorder can't read
    ├── TrainingError           a training that can't go on
    │   └── NonFiniteError          a loss or a matching cost that is NaN or infinite
    └── DependencyError         an optional package that the request needs

A path that the system refuses stays the OSError that it is; the command line tells it the same way.
Anything else that reaches the user is a defect of mpdiag.
"""


class MpdiagError(Exception):
    """Base of all errors that a user can mend; the command line prints it and exits with 2."""


class ConfigError(MpdiagError):
    """A recipe, an override or a setting is wrong."""


class CheckpointError(MpdiagError):
    """A file is no readable checkpoint of a known model."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint would run code when loaded."""


class DataError(MpdiagError):
    """A data set, an annotation file or an image is missing or broken."""


class RunError(MpdiagError):
    """A run directory is unreadable, unfinished, or holds another run."""


class RecordingError(MpdiagError):
    """A module can't be recorded: unknown family or unexpected calls."""


class TrainingError(MpdiagError):
    """A training can't go on."""


class NonFiniteError(TrainingError):
    """A loss or a matching cost is NaN or infinite: which one, in which layer, on which image.

    `image` is the position in the batch, None where it can't be told from the others.
    """

    def __init__(self, term: str, layer: int | None, image: int | None) -> None:
        where = [] if layer is None else [f"layer {layer}"]
        where += [] if image is None else [f"image {image} of the batch"]
        place = f" of {', '.join(where)}" if where else ""
        super().__init__(
            f"{term}{place} is not finite: the model's outputs hold NaN or infinity there"
        )
        self.term, self.layer, self.image = term, layer, image


class DependencyError(MpdiagError):
    """An optional package that the request needs is not installed."""
