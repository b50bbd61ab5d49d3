"""Forward hooks that record what every decoder layer of a query-based segmenter does."""

from mpdiag.recording.names import CANONICAL, names
from mpdiag.recording.points import HookPoint
from mpdiag.recording.recorder import Recording, record

__all__ = ["CANONICAL", "HookPoint", "Recording", "names", "record"]
