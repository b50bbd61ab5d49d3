"""Forward hooks that record what every decoder layer of a query-based segmenter does."""

from mpdiag.recording.families import BUILT_IN
from mpdiag.recording.family import Family, family_of, is_a, known_families, register
from mpdiag.recording.names import CANONICAL, names
from mpdiag.recording.points import HookPoint
from mpdiag.recording.recorder import record
from mpdiag.recording.recording import Recording
from mpdiag.recording.tap import Call, Tap, Taps, output

__all__ = [
    "CANONICAL",
    "Call",
    "Family",
    "HookPoint",
    "Recording",
    "Tap",
    "Taps",
    "family_of",
    "is_a",
    "known_families",
    "names",
    "output",
    "record",
    "register",
]

for _family in reversed(BUILT_IN):  # what is registered last is asked first
    register(_family)
