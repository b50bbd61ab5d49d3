"""Canonical names of the tensors that a recording can hold, for every model family."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from mpdiag.errors import RecordingError

_MATCHING = {
    "query": "layers 0..L, each (B, N, C): queries before the decoder's output norm",
    "class_logits": "layers 0..L, each (B, N, K + 1), no-object last",
    "mask_logits": "layers 0..L, each (B, N, h, w), at the resolution of the prediction",
    "attention_mask": "layers 1..L, each (B, N, cells) bool, True where a query may attend",
    "assignment": "layers 0..L, each (B, N): index of the GT that the model's own matcher assigns "
    "to each query if the model receives labels, -1 for none",
}

CANONICAL_NAMES = {
    **_MATCHING,
    "cross_attention": "layers 1..L, each (B, heads, N, cells): weights, 0 where a query may not "
    "attend; they sum to 1 over the cells",
    "sampling_locations": "each layer of deformable attention, each (B, query positions, heads, "
    "levels, points, 2): x and y, 0..1 from edge to edge of the image",
    **{f"piloted_{name}": f"the MP part's {shape}" for name, shape in _MATCHING.items()},
}
"""Name -> layers and shape of each tensor that can be recorded."""

_MATCHING_DIMENSIONS = {
    "query": 3,
    "class_logits": 3,
    "mask_logits": 4,
    "attention_mask": 3,
    "assignment": 2,
}

DIMENSIONS = {
    **_MATCHING_DIMENSIONS,
    "cross_attention": 4,
    "sampling_locations": 6,
    **{f"piloted_{name}": count for name, count in _MATCHING_DIMENSIONS.items()},
}
"""Name -> number of dimensions of the tensor of one layer."""

LARGE_TENSORS = frozenset({"cross_attention", "sampling_locations"})
"""Names that are recorded only on request, because the model does not keep these tensors."""


def select_names(patterns: Sequence[str] | None = None) -> list[str]:
    """Return the canonical names that match any of the shell patterns; all of them for None.

    Raises:
        RecordingError: a pattern matches no name.
    """
    if patterns is None:
        return list(CANONICAL_NAMES)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in CANONICAL_NAMES):
            known = ", ".join(CANONICAL_NAMES)
            raise RecordingError(f"{pattern!r}: matches no tensor name; the names are {known}")
    return [name for name in CANONICAL_NAMES if any(fnmatchcase(name, p) for p in patterns)]
