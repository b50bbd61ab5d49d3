"""Canonical names of what can be recorded; every model is read in these words."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from mpdiag.errors import RecordingError

_MATCHING = {
    "query": "layers 0..L, each (B, N, C): queries before the decoder's output norm",
    "class_logits": "layers 0..L, each (B, N, K + 1), no-object last",
    "mask_logits": "layers 0..L, each (B, N, h, w), at the resolution in which they are predicted",
    "attention_mask": "layers 1..L, each (B, N, cells) bool, True where a query may attend",
    "assignment": "layers 0..L, each (B, N): GT that the model itself matches with each query "
    "where it is given labels, -1 for none",
}

CANONICAL = {
    **_MATCHING,
    "cross_attention": "layers 1..L, each (B, heads, N, cells): weights, 0 where a query may not "
    "attend; they sum to 1 over the cells",
    "sampling_locations": "each layer of deformable attention, each (B, points of view, heads, "
    "levels, points, 2): x and y, 0..1 from edge to edge of the image",
    **{f"piloted_{name}": f"the MP part's {shape}" for name, shape in _MATCHING.items()},
}
"""Name -> layers and shape of each recorded tensor."""

LARGE = frozenset({"cross_attention", "sampling_locations"})
"""Names that are recorded only when they are asked for: the model does not keep them itself."""


def names(only: Sequence[str] | None = None) -> list[str]:
    """The canonical names, or those that match one of the patterns `only` (as in a shell).

    Raises:
        RecordingError: a pattern matches no name.
    """
    if only is None:
        return list(CANONICAL)
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in CANONICAL):
            known = ", ".join(CANONICAL)
            raise RecordingError(f"nothing is called {pattern!r}; there are {known}")
    return [name for name in CANONICAL if any(fnmatchcase(name, p) for p in only)]
